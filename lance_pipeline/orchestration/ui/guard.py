"""Decides which requests the UI answers: those of its own pages and of programs, never those of other web pages."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lance_pipeline.orchestration.ui.address import MLFLOW_PATH

REPORTS_PATH = "/reports"
HOSTS_VARIABLE = "LANCE_PIPELINE_UI_HOSTS"

_READING = ("GET", "HEAD")
_METHODS = (*_READING, "POST", "PUT", "PATCH", "DELETE")
# These execute what the URL says, even a mutation.
_NEVER_BY_GET = ("/graphql", f"{MLFLOW_PATH}/graphql", f"{MLFLOW_PATH}/ajax-api/2.0/mlflow/gateway-proxy")
_UPLOADS = (
    f"{MLFLOW_PATH}/ajax-api/2.0/mlflow/upload-artifact",
    f"{MLFLOW_PATH}/ajax-api/2.0/mlflow-artifacts/",
    f"{MLFLOW_PATH}/api/2.0/mlflow-artifacts/",
)

_EVERYWHERE = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
}
_OWN_PAGES = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; frame-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; "
)
_DAGSTER = _OWN_PAGES + "frame-ancestors 'none'"
# MLflow shows some of its own pages in frames.
_MLFLOW = _OWN_PAGES + "frame-ancestors 'self'"
# Files that others may have written: an HTML page among them can run no script, and has no origin.
_FILES = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox"
_MLFLOW_PAGES = (f"{MLFLOW_PATH}/static-files/", f"{MLFLOW_PATH}/build/")
_FILE_PATHS = (f"{REPORTS_PATH}/", f"{MLFLOW_PATH}/", "/notebook", "/dagit/notebook", "/logs/", "/download_debug/")


def allowed_hosts(port: int, others: Iterable[str] = ()) -> frozenset[str]:
    """The accepted values of ``Host``: the loopback names with the port, and the given others."""
    loopback = ("127.0.0.1", "localhost", "[::1]")
    # Browsers leave out the default port.
    names = [*(f"{name}:{port}" for name in loopback), *(loopback if port == 80 else ())]
    return frozenset(name.lower() for name in (*names, *others))


class Guard:
    """ASGI middleware that rejects requests that a page of another origin may have sent, and forbids framing.

    Browsers send simple requests from any page to any address and only withhold the responses. So a request that
    changes something must have a form that a browser sends across origins only with the server's consent, which it
    never gives.

    Args:
        app: the guarded application.
        hosts: the accepted values of ``Host``, in lower case.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, reject with 403, or close a WebSocket before accepting it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        reason = refusal(scope, self._hosts)
        answer = _with_headers(scope["path"], send)
        if reason is None:
            await self._app(scope, receive, answer)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            await PlainTextResponse(f"Refused: {reason}\n", 403)(scope, receive, answer)


def refusal(scope: Scope, hosts: frozenset[str]) -> str | None:
    """Why a request is rejected; None if it is answered."""
    headers, path = Headers(scope=scope), scope["path"]
    if not path.startswith("/") or not path.isprintable():
        return "the path is malformed."
    return (
        _foreign_host(headers, hosts)
        or _foreign_page(scope, headers, hosts)
        or (_unsafe_request(scope["method"], path, headers) if scope["type"] == "http" else None)
    )


def _foreign_host(headers: Headers, hosts: frozenset[str]) -> str | None:
    """Reject a name that an attacker's DNS may point here."""
    given = headers.getlist("host")
    if len(given) != 1 or given[0].lower() not in hosts:
        return (
            f"the header Host names none of {', '.join(sorted(hosts))}. If you open the UI by a name or port of your "
            f"own, start it with {HOSTS_VARIABLE}=<name>:<port> or --allow-host <name>:<port>."
        )
    return None


def _foreign_page(scope: Scope, headers: Headers, hosts: frozenset[str]) -> str | None:
    origins = headers.getlist("origin")
    if scope["type"] == "websocket" and not origins:
        return "a WebSocket needs the header Origin."
    if len(origins) > 1 or not all(_authority(origin) in hosts for origin in origins):
        return "the request comes from a page of another origin."
    if all(site in ("same-origin", "none") for site in headers.getlist("sec-fetch-site")):
        return None
    # Following a link from another page is allowed.
    opened = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    if opened and scope["type"] == "http" and scope["method"] in _READING:
        return None
    return "the request comes from a page of another site."


def _authority(origin: str) -> str | None:
    """The host and port of an origin; None if it is not a web page's."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in ("http", "https") else None


def _unsafe_request(method: str, path: str, headers: Headers) -> str | None:
    if method not in _METHODS:
        return f"expected one of {', '.join(_METHODS)}."
    if method in _READING:
        normal = "/" + "/".join(filter(None, path.lower().split("/")))
        return "send it by POST, as application/json." if normal in _NEVER_BY_GET else None
    kinds = headers.getlist("content-type")
    if [kind.partition(";")[0].strip().lower() for kind in kinds] == ["application/json"]:
        return None
    # Browsers ask before sending PUT across origins, and send the origin with POST and DELETE.
    if path.startswith(_UPLOADS) and (method == "PUT" or "origin" in headers):
        return None
    if method == "DELETE" and not kinds and "origin" in headers:
        return None
    return "expected the content type application/json."


def _with_headers(path: str, send: Send) -> Send:
    policy = _policy(path)

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(_EVERYWHERE)
            headers["X-Frame-Options"] = "SAMEORIGIN" if policy == _MLFLOW else "DENY"
            # Appended to the server's own policy: a browser applies both.
            headers.append("Content-Security-Policy", policy)
        await send(message)

    return sent


def _policy(path: str) -> str:
    if path == f"{MLFLOW_PATH}/" or path.startswith(_MLFLOW_PAGES):
        return _MLFLOW
    return _FILES if path.startswith(_FILE_PATHS) and path != f"{REPORTS_PATH}/" else _DAGSTER
