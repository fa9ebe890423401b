"""Who may talk to the page: requests for this server by name, and changes only from its own page."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "::1", "localhost")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-f:.]{2,45})\]|(?P<name>[a-z0-9_.-]{1,253}))(?::\d{1,5})?", re.ASCII)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens at `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


class Guard:
    """An ASGI layer that refuses other hosts' names and other sites' changes, and sets the security headers.

    A site whose name an attacker points at this machine (DNS rebinding) sends its own name as Host; an address cannot
    be rebound, so those are let through where the server listens beyond the loopback.

    Args:
        app: the layer below.
        names: what the server may be called, beside the loopback's names.
        addresses: whether any address is right as well.
    """

    def __init__(self, app: ASGIApp, *, names: tuple[str, ...] = (), addresses: bool = False) -> None:
        self.app, self.addresses = app, addresses
        self.names = frozenset(name.lower() for name in (*LOOPBACK, *names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        reason = self._refusal(scope["method"], Headers(scope=scope))
        if reason:
            refusal = JSONResponse({"error": reason}, status_code=403, headers={"Connection": "close"})
            await refusal(scope, receive, send_guarded)
            return
        await self.app(scope, receive, send_guarded)

    def _refusal(self, method: str, headers: Headers) -> str:
        """Why a request is not answered; empty if it is."""
        host = headers.get("host", "").lower()
        found = _HOST.fullmatch(host)
        name = "" if found is None else (found["v6"] or found["name"]).rstrip(".")
        if name not in self.names and not (self.addresses and _address(name) is not None):
            return "this server is not called that: open it under the address that it printed"
        if method in ("GET", "HEAD", "OPTIONS"):
            return ""
        origin = headers.get("origin")  # browsers set it, others need not
        own = origin is None or origin.lower() in (f"http://{host}", f"https://{host}")
        if not own or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return "only the page itself may send this"
        return ""


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
