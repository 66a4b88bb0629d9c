"""Why a client could not connect, for its message."""

import socket
import ssl
from urllib.parse import urlsplit


def speaks_tls(host: str, port: int) -> bool | None:
    """Whether the server speaks TLS; None without an answer within a second. Raises OSError."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent
    with socket.create_connection((host, port), 1.0) as connection:
        try:
            with context.wrap_socket(connection):
                return True
        except TimeoutError:
            return None
        except ssl.SSLError as error:
            return "ALERT" in (error.reason or "")
        except OSError:
            return False


def wrong_scheme(url: str) -> str:
    """Return that the server of `url` speaks http instead of https, or the reverse; empty if it does not."""
    parts = urlsplit(url)
    try:
        tls = speaks_tls(parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme])
    except (OSError, KeyError, ValueError):
        return ""
    if tls is None or tls == (parts.scheme == "https"):
        return ""
    return f"it speaks {'TLS' if tls else 'no TLS'}; write {'https' if tls else 'http'}:// in its address"


def root_cause(error: BaseException) -> str:
    """Return the text of the first cause; the errors that wrap it only repeat it."""
    while True:
        wrapped = (getattr(error, "reason", None), error.__cause__, error.__context__, *error.args[:1])
        below = next((each for each in wrapped if isinstance(each, BaseException)), None)
        if below is None:
            return getattr(error, "strerror", None) or str(error) or type(error).__name__
        error = below
