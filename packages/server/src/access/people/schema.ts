import { z } from '@hono/zod-openapi'
import { peopleLimits } from './limits.ts'

const roles = ['owner', 'admin', 'member', 'viewer'] as const
export const roleSchema = z.enum(roles)

/** Control characters, and what reverses or hides the text around it. */
const unseen = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u

export const emailSchema = z
  .string()
  .max(peopleLimits.emailChars)
  .transform(normaliseEmail)
  .pipe(z.email().max(peopleLimits.emailChars))
  .openapi({ type: 'string', format: 'email', maxLength: peopleLimits.emailChars, example: 'ada@example.com' })

const { minChars, maxChars } = peopleLimits.password

/** For one that is being chosen. */
export const newPasswordSchema = z
  .string()
  .min(minChars)
  .max(maxChars)
  .refine((text) => !/\p{Cc}/u.test(text), 'must not hold control characters')
  .refine((text) => new Set(text).size >= 4, 'must have more different characters')
  .openapi({ type: 'string', format: 'password', minLength: minChars, maxLength: maxChars })

/** For one that is being tried: what could not have been chosen is wrong, not invalid, but is bounded all the same. */
const passwordSchema = z.string().max(maxChars).openapi({ type: 'string', format: 'password', maxLength: maxChars })

const codeSchema = z.string().min(6).max(20).openapi({ description: 'Six digits of the app, or a recovery code' })

const nameSchema = z
  .string()
  .trim()
  .min(1)
  .max(peopleLimits.nameChars)
  .refine((text) => !unseen.test(text), 'must be a single line')

/** Links and refresh tokens, told apart by how they begin. */
const secretSchema = (what: string) => z.string().min(1).max(100).openapi({ description: what })
const linkTokenSchema = secretSchema('From the link')

export const registerSchema = z.strictObject({ email: emailSchema, name: nameSchema.optional() }).openapi('Register')

export const verifySchema = z
  .strictObject({ token: linkTokenSchema, password: newPasswordSchema, cookies: z.boolean().optional() })
  .openapi('Verify')

export const loginSchema = z
  .strictObject({
    email: emailSchema,
    password: passwordSchema,
    code: codeSchema.optional(),
    accountId: z.string().max(64).optional().openapi({ description: 'Default: the one used last' }),
    cookies: z
      .boolean()
      .optional()
      .openapi({ description: 'Set the tokens as cookies instead of answering with them' }),
  })
  .openapi('Login')

export const linkLoginSchema = z
  .strictObject({ token: linkTokenSchema, code: codeSchema.optional(), cookies: z.boolean().optional() })
  .openapi('LinkLogin')

export const ownerSchema = z
  .strictObject({
    token: linkTokenSchema,
    email: emailSchema,
    password: newPasswordSchema,
    name: nameSchema.optional(),
    cookies: z.boolean().optional(),
  })
  .openapi('FirstOwner')

export const refreshSchema = z
  .strictObject({ refreshToken: secretSchema('Good once').optional() })
  .openapi('Refresh', { description: 'Without a token the one in the cookie is meant' })

export const logoutSchema = refreshSchema
export const emailOnlySchema = z.strictObject({ email: emailSchema }).openapi('EmailOnly')

export const resetSchema = z
  .strictObject({ token: linkTokenSchema, password: newPasswordSchema })
  .openapi('ResetPassword')

export const changePasswordSchema = z
  .strictObject({ password: passwordSchema, newPassword: newPasswordSchema })
  .openapi('ChangePassword')

export const passwordOnlySchema = z.strictObject({ password: passwordSchema }).openapi('PasswordOnly')
export const totpCodeSchema = z.strictObject({ code: codeSchema }).openapi('TotpCode')
export const switchSchema = z.strictObject({ accountId: z.string().max(64) }).openapi('SwitchAccount')

export const acceptSchema = z
  .strictObject({
    token: linkTokenSchema,
    password: passwordSchema.openapi({
      description: 'Of whoever has a user already; else the one that is chosen',
    }),
    code: codeSchema.optional(),
    name: nameSchema.optional(),
    cookies: z.boolean().optional(),
  })
  .openapi('AcceptInvitation')

export const inviteSchema = z.strictObject({ email: emailSchema, role: roleSchema.default('member') }).openapi('Invite')
export const changeRoleSchema = z.strictObject({ role: roleSchema }).openapi('ChangeRole')
export const changeAccountSchema = z.strictObject({ name: nameSchema }).openapi('ChangeAccount')
export const changeUserSchema = z.strictObject({ name: nameSchema }).openapi('ChangeUser')

const time = z.iso.datetime()

export const tokensSchema = z
  .object({
    accessToken: z.string().nullable().openapi({ description: 'Null where it was set as a cookie' }),
    refreshToken: z
      .string()
      .nullable()
      .openapi({ description: 'Good once: keep the one that the next refresh answers with' }),
    expiresAt: time.openapi({ description: 'Of the access token' }),
    sessionId: z.string(),
    userId: z.string(),
    accountId: z.string(),
  })
  .openapi('SessionTokens')
export type SessionTokens = z.output<typeof tokensSchema>

export const sentSchema = z
  .object({ status: z.literal('sent') })
  .openapi('Sent', { description: 'The same whether somebody has that address or not' })

const accountSummary = z.object({ id: z.string(), name: z.string(), role: roleSchema })

export const userSchema = z
  .object({
    id: z.string(),
    email: z.string(),
    name: z.string(),
    emailVerifiedAt: time.nullable(),
    createdAt: time,
    totp: z.boolean().openapi({ description: 'Whether logging in needs a second factor' }),
    recoveryCodesLeft: z.int(),
  })
  .openapi('User')
export type UserInfo = z.output<typeof userSchema>

export const meSchema = z
  .object({
    kind: z.enum(['user', 'key', 'agent']),
    id: z.string().openapi({ description: 'Of the user, key or agent' }),
    accountId: z.string(),
    role: roleSchema.nullable(),
    sessionId: z.string().nullable(),
    user: userSchema.nullable().openapi({ description: 'Null for keys and agents' }),
    accounts: z.array(accountSummary),
  })
  .openapi('Me')
export type Me = z.output<typeof meSchema>

export const sessionSchema = z
  .object({
    id: z.string(),
    current: z.boolean(),
    accountId: z.string(),
    client: z.string().openapi({ description: 'What it said it was' }),
    address: z.string(),
    secondFactor: z.boolean(),
    createdAt: time,
    usedAt: time.openapi({ description: 'When it was last refreshed' }),
    expiresAt: time,
  })
  .openapi('Session')
export type SessionInfo = z.output<typeof sessionSchema>

export const accountSchema = z
  .object({ id: z.string(), name: z.string(), createdAt: time, members: z.int() })
  .openapi('Account')
export type AccountInfo = z.output<typeof accountSchema>

export const memberSchema = z
  .object({
    userId: z.string(),
    email: z.string(),
    name: z.string(),
    role: roleSchema,
    totp: z.boolean(),
    joinedAt: time,
  })
  .openapi('Member')
export type MemberInfo = z.output<typeof memberSchema>

export const invitationSchema = z
  .object({
    id: z.string(),
    email: z.string(),
    role: roleSchema,
    invitedBy: z.string(),
    createdAt: time,
    expiresAt: time,
  })
  .openapi('Invitation')
export type InvitationInfo = z.output<typeof invitationSchema>

export const totpSetupSchema = z
  .object({
    secret: z.string().openapi({ description: 'For the app; shown only here' }),
    uri: z.string().openapi({ description: 'The same, for a QR code' }),
  })
  .openapi('TotpSetup')

export const recoveryCodesSchema = z
  .object({ recoveryCodes: z.array(z.string()).openapi({ description: 'Each is good once; shown only here' }) })
  .openapi('RecoveryCodes')

export const loginLinkSchema = z
  .object({
    url: z.string().openapi({ description: 'Good once; shown only here' }),
    purpose: z.string(),
    expiresAt: time,
  })
  .openapi('LoginLink')
export type LoginLink = z.output<typeof loginLinkSchema>

export const idParamSchema = z.object({
  id: z
    .string()
    .max(64)
    .openapi({ param: { name: 'id', in: 'path' } }),
})

/** One page, always whole: each of these lists is bounded. */
export function wholeList<Schema extends z.ZodType>(schema: Schema, name: string) {
  return z.object({ data: z.array(schema), nextCursor: z.null() }).openapi(name)
}

/** What an e-mail address is stored and compared as. */
export function normaliseEmail(text: string): string {
  return text.trim().normalize('NFKC').toLowerCase()
}
