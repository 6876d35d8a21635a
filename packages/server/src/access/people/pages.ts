import { createHash } from 'node:crypto'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import { DeltaError } from '../../kernel/errors.ts'
import type { Api, ApiContext } from '../../kernel/http/api.ts'
import { readBody } from '../../kernel/http/body.ts'
import { shownOf } from './cookies.ts'
import type { Cookies } from './cookies.ts'
import { peopleLimits } from './limits.ts'
import type { LinkPurpose } from './rules.ts'
import { emailSchema, newPasswordSchema } from './schema.ts'
import type { People } from './service.ts'

/** The pages that links lead to: forms without any script, until there is a dashboard. Looking at one uses nothing up, sending it does. */

const style = `
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 26rem; overflow-wrap: anywhere; margin: 12vh auto; padding: 0 1.25rem }
h1 { font-size: 1.4rem; margin: 0 0 .5rem }
label { display: block; margin: 1rem 0 .25rem; font-weight: 600 }
input { font: inherit; width: 100%; box-sizing: border-box; padding: .55rem .7rem; border: 1px solid #8888; border-radius: .5rem; background: Field; color: FieldText }
button { display: block; font: inherit; font-weight: 600; margin-top: 1.25rem; padding: .6rem 1.1rem; border: 0; border-radius: .5rem; background: #2b5fd9; color: #fff }
:focus-visible { outline: 3px solid #2b5fd980; outline-offset: 1px }
.fault { border-left: 4px solid #c33; padding: .4rem .8rem; margin: 1rem 0; background: #c331 }
small { display: block; margin-top: .35rem; opacity: .75 }
code { font-size: .95em }
`
const styleHash = createHash('sha256').update(style).digest('base64')
const contentSecurityPolicy = `default-src 'none'; style-src 'sha256-${styleHash}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'`

interface Described {
  email: string
  isKnown: boolean
  totp: boolean
  /** Of an invitation. */
  into?: { account: string; role: string } | undefined
}

interface Page {
  title: string
  says: (about: Described) => string
  fields: (about: Described) => Field[]
  button: string
  /** Markup under the form. */
  below?: (about: Described) => string
  /** Resolves to whose e-mail it was. */
  send: (
    people: People,
    wish: { token: string; fields: URLSearchParams; about: Described; c: ApiContext },
  ) => Promise<void>
  done: string
}

interface Field {
  name: string
  label: string
  type: 'email' | 'password' | 'text'
  autocomplete: string
  hint?: string
  optional?: true
}

const { minChars, maxChars } = peopleLimits.password
const newPassword: Field = {
  name: 'password',
  label: 'Password',
  type: 'password',
  autocomplete: 'new-password',
  hint: `${minChars} to ${maxChars} characters; a sentence is good.`,
}
const presentPassword: Field = {
  name: 'password',
  label: 'Your password',
  type: 'password',
  autocomplete: 'current-password',
}
const code: Field = {
  name: 'code',
  label: 'Code',
  type: 'text',
  autocomplete: 'one-time-code',
  hint: 'Six digits of your app, or a recovery code.',
}

const origin = (c: ApiContext) => ({
  address: c.get('address'),
  client: c.req.header('user-agent'),
})

const pages: Record<LinkPurpose, Page> = {
  owner: {
    title: 'Become the owner',
    says: () => 'This is a new installation of DELTA. Whoever sends this form owns it.',
    fields: () => [{ name: 'email', label: 'E-mail', type: 'email', autocomplete: 'username' }, newPassword],
    button: 'Begin',
    async send({ logIn }, { token, fields, c }) {
      await logIn.createOwner({ token, email: chosenEmail(fields), password: chosenPassword(fields) }, origin(c))
    },
    done: 'You are the owner.',
  },
  verify: {
    title: 'Confirm your address',
    says: ({ email }) => `Choose a password for ${email}.`,
    fields: () => [newPassword],
    button: 'Confirm',
    async send({ logIn }, { token, fields, c }) {
      await logIn.verify({ token, password: chosenPassword(fields) }, origin(c))
    },
    done: 'Your address is confirmed.',
  },
  reset: {
    title: 'Choose a new password',
    says: ({ email }) => `For ${email}. It ends all your sessions.`,
    fields: () => [newPassword],
    button: 'Save',
    async send({ logIn }, { token, fields, c }) {
      await logIn.reset({ token, password: chosenPassword(fields) }, origin(c))
    },
    done: 'It is your password now.',
  },
  signin: {
    title: 'Choose a new password',
    says: ({ email }) =>
      `For ${email}. It ends all your sessions. To log in on the command line without a new password, give this link to delta login --link.`,
    fields: () => [newPassword],
    button: 'Save',
    async send({ logIn }, { token, fields, c }) {
      await logIn.reset({ token, password: chosenPassword(fields), purpose: 'signin' }, origin(c))
    },
    done: 'It is your password now.',
  },
  invitation: {
    title: 'Join the account',
    says: ({ email, isKnown, into }) =>
      `You are invited to the account “${into?.account}” as ${into?.role}. ${isKnown ? `You have a user already, ${email}: show its password.` : `Choose a password for ${email}.`}`,
    fields: ({ isKnown, totp }) => [isKnown ? presentPassword : newPassword, ...(totp ? [code] : [])],
    button: 'Join',
    below: ({ isKnown }) =>
      isKnown
        ? '<p>You do not know it any more? <a href="/auth/forgot">Ask for a new password</a>, then open the invitation once more.</p>'
        : '',
    async send({ members }, { token, fields, about, c }) {
      const password = about.isKnown ? (fields.get('password') ?? '') : chosenPassword(fields)
      await members.accept(
        { token, password: password.slice(0, maxChars), code: fields.get('code') ?? undefined },
        origin(c),
      )
    },
    done: 'You belong to the account now.',
  },
}

export function addPages(api: Api, { people, cookies }: { people: People; cookies: Cookies }): void {
  for (const purpose of Object.keys(pages) as LinkPurpose[]) {
    const page = pages[purpose]
    api.get(`/auth/${purpose}`, async (c) => {
      c.set('route', `/auth/${purpose}`)
      const token = c.req.query('t') ?? ''
      const about = await people.describeLink(token, purpose)
      return about ? answer(c, 200, page.title, form(page, { about, token })) : over(c)
    })
    api.post(`/auth/${purpose}`, async (c) => {
      c.set('route', `/auth/${purpose}`)
      cookies.refuseForeignForm(shownOf(c))
      const fields = new URLSearchParams((await readBody(c, peopleLimits.formBytes)).toString('utf8'))
      const token = fields.get('t') ?? ''
      const about = await people.describeLink(token, purpose)
      if (!about) return over(c)
      try {
        await page.send(people, { token, fields, about, c })
      } catch (error) {
        if (!(error instanceof DeltaError) || error.status >= 500) throw error
        if (error.code === 'link_invalid') return over(c)
        const fault = faultOf(error, about)
        return answer(c, error.status as ContentfulStatusCode, page.title, form(page, { about, token, fault }))
      }
      return answer(c, 200, page.title, `<p>${page.done}</p><p>Log in with <code>delta login</code>.</p>`)
    })
  }
  addForgotPage(api, { people, cookies })
}

/** The way to a new password for whoever stands before a form that asks for theirs. */
function addForgotPage(api: Api, { people, cookies }: { people: People; cookies: Cookies }): void {
  const [path, title] = ['/auth/forgot', 'Ask for a new password']
  const page: FormPage = {
    says: () => 'A link to choose it is sent to your address.',
    fields: () => [{ name: 'email', label: 'E-mail', type: 'email', autocomplete: 'username' }],
    button: 'Send',
  }
  const about = { email: '', isKnown: false, totp: false }
  api.get(path, (c) => {
    c.set('route', path)
    return answer(c, 200, title, form(page, { about }))
  })
  api.post(path, async (c) => {
    c.set('route', path)
    cookies.refuseForeignForm(shownOf(c))
    const fields = new URLSearchParams((await readBody(c, peopleLimits.formBytes)).toString('utf8'))
    try {
      await people.logIn.forgot(chosenEmail(fields), origin(c))
    } catch (error) {
      if (!(error instanceof DeltaError) || error.status >= 500) throw error
      const fault = faultOf(error, about)
      return answer(c, error.status as ContentfulStatusCode, title, form(page, { about, fault }))
    }
    return answer(c, 202, title, '<p>If somebody has that address, the link is on its way: it is good for an hour.</p>')
  })
}

function faultOf(error: DeltaError, { email }: Described): string {
  if (error.code === 'invalid_request') return String(error.cause ?? error.message)
  return error.code === 'login_failed' && email !== '' ? `That is not the password of ${email}.` : error.message
}

/**
 * What a person in a browser is shown instead of the JSON that programs get; undefined for those. Nothing of the remediation is in it, which speaks of headers and routes.
 */
export function refusalPage(c: ApiContext, error: DeltaError): Response | undefined {
  if (!c.req.path.startsWith('/auth/') || !c.req.header('accept')?.includes('text/html')) return undefined
  const advice =
    error.code === 'csrf_refused'
      ? 'Open the link from your mail by itself, and send the form that it shows.'
      : error.status >= 500
        ? 'Try again in a minute; if it stays so, tell the operator of this server.'
        : 'Open the link as it stands in your mail, whole.'
  const content = `<p>${escape(error.message)}.</p><p>${advice}</p><p><small>Request ${escape(c.get('requestId'))}</small></p>`
  const title = error.code === 'not_found' ? 'There is no such page' : 'That did not work'
  return answer(c, error.status as ContentfulStatusCode, title, content)
}

function chosenPassword(fields: URLSearchParams): string {
  const read = newPasswordSchema.safeParse(fields.get('password') ?? '')
  if (read.success) return read.data
  throw new DeltaError('invalid_request', 'The password can not be taken', {
    cause: `Password: ${read.error.issues.map(({ message }) => message).join('; ')}`,
  })
}

function chosenEmail(fields: URLSearchParams): string {
  const read = emailSchema.safeParse(fields.get('email') ?? '')
  if (read.success) return read.data
  throw new DeltaError('invalid_request', 'The address can not be taken', { cause: 'E-mail: is no address' })
}

function over(c: ApiContext): Response {
  const why = '<p>It was used, or its time is over, or it was not copied whole. Ask for a new one.</p>'
  return answer(c, 410, 'This link is over', why)
}

type FormPage = Pick<Page, 'says' | 'fields' | 'button' | 'below'>

function form(
  { says, fields, button, below }: FormPage,
  { about, token, fault }: { about: Described; token?: string; fault?: string },
): string {
  const hidden = token === undefined ? '' : `<input type="hidden" name="t" value="${escape(token)}">`
  const inputs = fields(about).map(
    ({ name, label, type, autocomplete, hint, optional }) =>
      `<label for="${name}">${label}</label><input id="${name}" name="${name}" type="${type}" autocomplete="${autocomplete}"${optional ? '' : ' required'}>${hint ? `<small>${hint}</small>` : ''}`,
  )
  return `<p>${escape(says(about))}</p>${fault === undefined ? '' : `<p class="fault" role="alert">${escape(fault)}</p>`}
<form method="post">${hidden}${inputs.join('')}<button>${button}</button></form>${below?.(about) ?? ''}`
}

function answer(c: ApiContext, status: ContentfulStatusCode, title: string, content: string): Response {
  c.header('Content-Security-Policy', contentSecurityPolicy)
  // The link is in the address: it must not travel on to anywhere.
  c.header('Referrer-Policy', 'same-origin')
  c.header('Cross-Origin-Opener-Policy', 'same-origin')
  c.header('Cross-Origin-Resource-Policy', 'same-origin')
  const head = `<meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="robots" content="noindex"><title>${title} · DELTA</title><style>${style}</style>`
  return c.html(
    `<!doctype html><html lang="en"><head>${head}</head><body><main><h1>${title}</h1>${content}</main></body></html>`,
    status,
  )
}

function escape(text: string): string {
  return text.replaceAll(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`)
}
