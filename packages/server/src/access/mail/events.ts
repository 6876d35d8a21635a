/** A mail to one person, as text. */
export interface Mail {
  to: string
  /** Whose share of the mailbox it takes: an account, a user, or a word for what strangers have sent. */
  share: string
  subject: string
  text: string
}

export interface MailEvents {
  'mail.wanted': Mail
}
