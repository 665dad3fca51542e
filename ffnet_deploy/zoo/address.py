"""Web addresses: what is asked for, what may be shown of it, and where a redirect may lead."""

from __future__ import annotations

import base64
import hashlib
import re
import string
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

_SCHEMES = ("http", "https")


class AddressError(ValueError):
    """An address that cannot or must not be asked."""


@dataclass(frozen=True, slots=True)
class Address:
    """An http(s) address. As text it shows no credentials, and no query either: that may be a token."""

    url: str = field(repr=False)
    """What is asked for, without user and password."""
    authorization: str | None = field(default=None, repr=False)
    """Value of that header, from the user and password of the address."""

    @classmethod
    def of(cls, text: str) -> Address:
        """Take an address apart.

        Raises:
            AddressError: it is no http(s) address.
        """
        try:
            parts = urlsplit(text)
            # Reading the port checks it.
            usable = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or re.search(r"[^\x21-\x7e]", text):
            raise AddressError(f"{without_secrets(text)} is not a usable address")
        user, at, host = parts.netloc.rpartition("@")
        name, _, password = user.partition(":")
        secret = base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
        return cls(
            urlunsplit((parts.scheme, host, parts.path, parts.query, "")), f"Basic {secret}" if at and user else None
        )

    @property
    def sha256(self) -> str:
        """Hex, of what is asked for: it tells addresses apart whose tokens must not be kept."""
        return hashlib.sha256(self.url.encode()).hexdigest()

    def below(self, file: str) -> Address:
        """The address of a file in this folder; the query stays."""
        parts = urlsplit(self.url)
        return Address(urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{file}")), self.authorization)

    def redirected(self, location: str) -> Address:
        """Where a server's ``Location`` leads; nothing has been asked there yet.

        Raises:
            AddressError: it leads off the web, or from https to http.
        """
        try:
            whole = urljoin(self.url, quote(location, safe=string.punctuation, encoding="iso-8859-1"))
        except ValueError as error:
            raise AddressError(f"it leads to {without_secrets(location)}, which is not a usable address") from error
        there = Address.of(whole)
        here, new = urlsplit(self.url), urlsplit(there.url)
        if here.scheme == "https" and new.scheme != "https":
            raise AddressError(f"it leads to {there}, without encryption")
        same = (here.scheme, here.netloc) == (new.scheme, new.netloc)
        # Credentials are for the server that they were given for.
        return Address(there.url, self.authorization if same else None)

    def __str__(self) -> str:
        return urlunsplit(urlsplit(self.url)._replace(query="", fragment=""))


def without_secrets(text: str) -> str:
    """An address without what may be a password or a token in it; other text as it is."""
    start = re.match(r"[^/]*//", text)
    if start is None:
        return text
    place = re.split(r"[?#]", text, maxsplit=1)[0]
    try:
        # Reading the port checks it: where it is none, a user's password may not be quoted.
        _ = urlsplit(text).port
    except ValueError:
        # Such a password may hold any character, even a question mark: then nothing tells it from a token.
        return re.sub(r"//.*@", "//", place, flags=re.DOTALL) if "@" not in text[len(place) :] else f"{start[0]}…"
    return re.sub(r"//[^/]*@", "//", place, count=1)
