"""Email: one plain-text mail for what has come together, by SMTP with STARTTLS, TLS, or none on a loopback relay."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate

from resources.notifications.channels._base import Delivery, Said, Transport
from resources.notifications.compose import Message
from resources.secrets import SecretError

_LONG_SUBJECT = 120


class EmailTransport(Transport):
    """A connection for each mail. Message-ID is the message's dedupe id: a mail server that keeps ids drops a second one."""

    limit = 100_000
    per_minute = 20.0
    burst = 5
    most_items = 200

    def send(self, message: Message) -> Delivery:
        try:
            mail = self._mail(message)
            with self._connect() as server:
                if self.channel.user:
                    server.login(self.channel.user, self._read_secret(self.channel.password_secret))
                refused = server.send_message(mail)
        except SecretError as error:
            return Delivery(Said.FAILED, str(error))
        except smtplib.SMTPRecipientsRefused as error:
            codes = {code for code, _ in error.recipients.values()}
            said = f"recipients refused ({', '.join(str(c) for c in sorted(codes))})"
            return Delivery(Said.REFUSED if min(codes) >= 500 else Said.FAILED, said)
        except smtplib.SMTPDataError as error:
            return Delivery(Said.REFUSED if error.smtp_code >= 500 else Said.FAILED, f"SMTP {error.smtp_code}: {_text(error)}")
        except smtplib.SMTPAuthenticationError as error:  # its text may repeat what was sent
            return Delivery(Said.FAILED, f"SMTP {error.smtp_code}: user or password refused")
        except smtplib.SMTPResponseException as error:
            return Delivery(Said.FAILED, f"SMTP {error.smtp_code}: {_text(error)}")
        except (smtplib.SMTPException, OSError, ValueError) as error:
            return Delivery(Said.FAILED, f"no delivery ({type(error).__name__})")
        text = f"{len(refused)} of {len(self.channel.to)} recipients refused" if refused else ""
        return Delivery(Said.TAKEN, text)

    def _connect(self) -> smtplib.SMTP:
        channel = self.channel
        if channel.security == "tls":
            return smtplib.SMTP_SSL(
                channel.host, channel.port, timeout=channel.timeout_seconds, context=ssl.create_default_context()
            )
        server = smtplib.SMTP(channel.host, channel.port, timeout=channel.timeout_seconds)
        if channel.security == "starttls":
            try:
                server.starttls(context=ssl.create_default_context())
            except BaseException:
                server.close()
                raise
        return server

    def _mail(self, message: Message) -> EmailMessage:
        mail = EmailMessage()
        first, more = message.items[0], len(message.items) - 1
        count = f" (and {more} more)" if more else f" ({message.part}/{message.parts})" if message.parts > 1 else ""
        title = " ".join(first.title.split())[:_LONG_SUBJECT]
        mail["Subject"] = f"[Tapeline {first.severity}] {title}{count}"
        mail["From"] = self.channel.sender
        mail["To"] = ", ".join(self.channel.to)
        mail["Date"] = formatdate(usegmt=True)
        mail["Message-ID"] = f"<{message.dedupe_id}.{self.name}@tapeline.{self.channel.sender.partition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.text + "\n")
        return mail


def _text(error: smtplib.SMTPResponseException) -> str:
    said = error.smtp_error
    return (said.decode(errors="replace") if isinstance(said, bytes) else str(said))[:200]
