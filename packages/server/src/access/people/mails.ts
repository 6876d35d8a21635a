import type { Mail } from '../mail/events.ts'
import type { IssuedLink } from './links.ts'

/** The mails about people. Nothing that a user wrote is in them but the name of an account. */

/** Of mails that anybody may have sent who has no user. */
const ofStrangers = 'registration'

export function verifyMail(to: string, { url }: IssuedLink): Mail {
  return {
    to,
    share: ofStrangers,
    subject: 'Confirm your e-mail address',
    text: lines(
      'Somebody, probably you, registered at DELTA with this address.',
      'To confirm it and choose a password, open this link within a day:',
      url,
      'If it was not you, do nothing.',
    ),
  }
}

export function alreadyRegisteredMail(to: string, publicUrl: string): Mail {
  return {
    to,
    share: ofStrangers,
    subject: 'You are registered already',
    text: lines(
      'Somebody, probably you, tried to register at DELTA with this address, which has a user already.',
      `Log in at ${publicUrl}, or ask for a new password with \`delta user reset\`.`,
      'If it was not you, do nothing.',
    ),
  }
}

export function resetMail({ id, email }: Whom, { url }: IssuedLink): Mail {
  return {
    to: email,
    share: id,
    subject: 'Choose a new password',
    text: lines(
      'Somebody, probably you, asked for a new password at DELTA.',
      'To choose it, open this link within an hour:',
      url,
      'It ends all your sessions. If it was not you, do nothing: your password stays as it is.',
    ),
  }
}

export function invitationMail(to: string, { url }: IssuedLink, account: { id: string; name: string }): Mail {
  return {
    to,
    share: account.id,
    subject: 'You are invited to an account at DELTA',
    text: lines(
      `You are invited to the account ${JSON.stringify(account.name)} at DELTA.`,
      'To join it, open this link within seven days:',
      url,
      'If you do not want to, do nothing.',
    ),
  }
}

export function secondFactorRemovedMail({ id, email }: Whom): Mail {
  return {
    to: email,
    share: id,
    subject: 'Your second factor was taken off',
    text: lines(
      'The operator of DELTA took the second factor off your user: logging in asks for the password alone now.',
      'If you asked for it, set it up anew. If you did not, ask the operator why.',
    ),
  }
}

export function passwordChangedMail({ id, email }: Whom): Mail {
  return {
    to: email,
    share: id,
    subject: 'Your password was changed',
    text: lines(
      'Your password at DELTA was changed, and your other sessions were ended.',
      'If it was not you, ask for a new password at once with `delta user reset`.',
    ),
  }
}

interface Whom {
  id: string
  email: string
}

function lines(...paragraphs: string[]): string {
  return `${paragraphs.join('\n\n')}\n`
}
