import type { Mail } from './events.ts'

/** Resolves when the mail server has taken it. */
export type DeliverMail = (mail: Mail) => Promise<void>

const connectMs = 10_000
const answerMs = 20_000

/** One connection for each mail: there are few, and none may hang on a connection that has died. */
export async function openSmtp({ url, from }: { url: string; from: string }): Promise<DeliverMail> {
  const { createTransport } = await import('nodemailer')
  const transport = createTransport({
    url,
    connectionTimeout: connectMs,
    greetingTimeout: connectMs,
    socketTimeout: answerMs,
    // Whoever can write a mail's text here must not have files or pages of this machine read into it.
    disableFileAccess: true,
    disableUrlAccess: true,
  })
  return async ({ to, subject, text }) => {
    // As an object it is one address, whatever it looks like.
    await transport.sendMail({
      from,
      to: { name: '', address: to },
      subject,
      text,
      headers: { 'Auto-Submitted': 'auto-generated' },
    })
  }
}
