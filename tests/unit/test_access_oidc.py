"""Tokens of an identity provider: which are taken, whose they are, and how often their issuer is asked for its keys."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given
from hypothesis import strategies as st

from belljar.access import AccessSettings, ApiKeys, Authenticator, Oidc, OidcSettings, Principal, Sessions, oidc
from belljar.access.oidc import COOLDOWN_S, FRESH_S, LATE_S, LEEWAY_S, STALE_S, TOKEN_BYTES_MAX
from belljar.errors import AccessDenied, AccessUnavailable, HostFault, InvalidInput
from belljar.identity import Tenant
from belljar.keys import Keys
from tests.journals import OwnLog
from tests.waiting import PATIENCE_S, in_time

_T = TypeVar("_T")
NOW = 1_800_000_000
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED = ed25519.Ed25519PrivateKey.generate()
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())
ED448 = ed448.Ed448PrivateKey.generate()
WEAK = rsa.generate_private_key(public_exponent=65537, key_size=1024)
ROLES = {"belljar-admins": "admin", "ops": "operator", "owners": "tenant-admin", "devs": "runner", "audit": "auditor"}


def jwk(key: Any, kid: str | None = "k1", **more: Any) -> dict[str, Any]:
    """What an issuer publishes of a key."""
    algorithm: Any = (
        jwt.algorithms.RSAAlgorithm
        if isinstance(key, rsa.RSAPrivateKey)
        else jwt.algorithms.ECAlgorithm
        if isinstance(key, ec.EllipticCurvePrivateKey)
        else jwt.algorithms.OKPAlgorithm
    )
    found: dict[str, Any] = json.loads(algorithm.to_jwk(key.public_key()))
    return {**found, **({} if kid is None else {"kid": kid}), **more}


class Issuer:
    """Gives its keys at a URL of this machine, and counts how often it was asked."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.body = json.dumps({"keys": keys}).encode()
        self.status = 200
        self.raw: bytes | None = None  # all of an answer, its head included
        self.asked = 0
        self.may_answer = threading.Event()
        self.may_answer.set()
        here = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                here.asked += 1
                here.may_answer.wait()
                if here.raw is not None:
                    self.wfile.write(here.raw)
                    return
                self.send_response(here.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                with contextlib.suppress(OSError):  # it had enough
                    self.wfile.write(here.body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def gives(self, *keys: dict[str, Any]) -> None:
        self.body = json.dumps({"keys": keys}).encode()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_answer.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer(jwk(RSA)) as issuer:
        yield issuer


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def settings(where: Issuer | str, **more: Any) -> OidcSettings:
    url = where if isinstance(where, str) else where.url
    return OidcSettings(**{"issuer": url, "audience": "belljar", "jwks_url": f"{url}/keys", "roles": ROLES, **more})


def asking(issuer: Issuer, ask: Callable[[Oidc, Clock], Awaitable[_T]], **more: Any) -> _T:
    async def go() -> _T:
        clock = Clock()
        async with contextlib.aclosing(Oidc(settings(issuer, **more), clock=clock, steady=clock)) as found:
            return await ask(found, clock)

    return asyncio.run(go())


async def asked_again(issuer: Issuer) -> None:
    async with in_time(PATIENCE_S, "the issuer is asked"):
        while issuer.asked < 2:  # noqa: ASYNC110 (another thread counts)
            await asyncio.sleep(0.01)


async def given_up(found: Oidc) -> None:
    async with in_time(PATIENCE_S, "the fetch has failed"):
        while found._fetching is not None:  # noqa: ASYNC110 (nothing sets an event)
            await asyncio.sleep(0.01)


def token(
    issuer: Issuer,
    key: Any = RSA,
    algorithm: str | None = "RS256",
    *,
    kid: str | None = "k1",
    without: str = "",
    headers: dict[str, Any] | None = None,
    **claims: Any,
) -> str:
    body = {
        "iss": issuer.url,
        "aud": "belljar",
        "sub": "alice",
        "iat": NOW - 10,
        "exp": NOW + 600,
        "roles": ["devs"],
        "belljar_tenant": "acme",
        **claims,
    }
    body.pop(without, None)
    header = {**({} if kid is None else {"kid": kid}), **(headers or {})}
    return jwt.api_jws.encode(json.dumps(body).encode(), key, algorithm, headers=header)


def denied(issuer: Issuer, shown: str, **more: Any) -> str:
    """The code with which a token is refused."""

    async def ask(found: Oidc, _: Clock) -> str:
        with pytest.raises(AccessDenied) as caught:
            await found.check(shown)
        assert not shown or shown not in str(caught.value)
        return caught.value.code

    return asking(issuer, ask, **more)


def taken(issuer: Issuer, shown: str, **more: Any) -> Principal:
    return asking(issuer, lambda found, _: found.check(shown), **more)


# ------------------------------------------------------------------------------------------------------ what is taken


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        *((RSA, name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        *((P256, "ES256"), (P384, "ES384"), (P521, "ES512"), (ED, "EdDSA"), (ED448, "EdDSA")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_token_that_the_issuer_signed_says_who_it_is(issuer: Issuer, key: Any, algorithm: str) -> None:
    issuer.gives(jwk(key))
    assert taken(issuer, token(issuer, key, algorithm)) == Principal("oidc:alice", Tenant("acme"), "runner")


@pytest.mark.parametrize(
    ("claims", "principal"),
    [
        ({"roles": ["audit"]}, ("acme", "auditor")),
        ({"roles": "devs"}, ("acme", "runner")),
        ({"roles": "openid profile audit"}, ("acme", "auditor")),
        ({"roles": ["audit", "devs", "else"]}, ("acme", "runner")),
        ({"roles": ["devs", "belljar-admins"]}, (None, "admin")),
        ({"roles": ["ops"], "belljar_tenant": None}, (None, "operator")),
        ({"roles": ["ops"], "belljar_tenant": 7}, (None, "operator")),
        ({"belljar_tenant": "*"}, (None, "runner")),
        ({"belljar_tenant": "acme/research"}, ("acme/research", "runner")),
        ({"aud": ["other", "belljar"]}, ("acme", "runner")),
    ],
)
def test_claims_say_role_and_tenant(issuer: Issuer, claims: dict[str, Any], principal: tuple[str | None, Any]) -> None:
    tenant, role = principal
    expected = Principal("oidc:alice", None if tenant is None else Tenant(tenant), role)
    assert taken(issuer, token(issuer, **claims)) == expected


def test_claims_may_lie_deeper_and_have_any_name(issuer: Issuer) -> None:
    claims: dict[str, Any] = {"https://x/tenant": "acme/x", "realm_access": {"roles": ["owners"]}}
    shown = token(issuer, **claims)
    more = {"tenant_claim": ("https://x/tenant",), "roles_claim": ("realm_access", "roles")}
    assert taken(issuer, shown, **more) == Principal("oidc:alice", Tenant("acme/x"), "tenant-admin")
    for wrong in ({"roles": ["owners"]}, {"realm_access": ["owners"]}, {"realm_access": {"roles": {"owners": 1}}}):
        claims = {"https://x/tenant": "acme/x", **wrong}
        assert denied(issuer, token(issuer, **claims), **more) == "access.claims"


@pytest.mark.parametrize(
    "claims",
    [
        {"roles": []},
        {"roles": ["admin"]},
        {"roles": None},
        {"roles": [["devs"], {"devs": 1}, 7, None]},
        {"roles": {"devs": True}},
        {"roles": "audit\u00a0devs"},
        {"roles": "audit\u2003devs"},
        {"roles": "audit\tdevs"},
        {"roles": "audit,devs"},
        {"roles": "  "},
        {"belljar_tenant": None},
        {"belljar_tenant": ""},
        {"belljar_tenant": "Acme"},
        {"belljar_tenant": "acme/"},
        {"belljar_tenant": ["acme"]},
        {"belljar_tenant": "../acme"},
    ],
)
def test_without_a_known_role_and_a_tenant_nothing_is_assumed(issuer: Issuer, claims: dict[str, Any]) -> None:
    assert denied(issuer, token(issuer, **claims)) == "access.claims"


# ------------------------------------------------------------------------------------------------------ what is not


@pytest.mark.parametrize("claim", ["exp", "iat", "aud", "iss", "sub"])
def test_a_token_without_a_claim_that_counts_is_refused(issuer: Issuer, claim: str) -> None:
    assert denied(issuer, token(issuer, without=claim)) == "access.token"


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "other"},
        {"aud": ["belljar2"]},
        {"aud": []},
        {"aud": {"belljar": 1}},
        {"aud": 7},
        {"iss": "https://elsewhere"},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "x" * 256},
        {"exp": "soon"},
        {"exp": True},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": -1},
        {"exp": 10**400},
        {"iat": "then"},
        {"iat": None},
        {"nbf": "then"},
        {"nbf": [NOW]},
    ],
)
def test_a_token_with_a_claim_that_is_wrong_is_refused(issuer: Issuer, claims: dict[str, Any]) -> None:
    assert denied(issuer, token(issuer, **claims)) == "access.token"


def test_the_issuer_is_compared_to_the_letter(issuer: Issuer) -> None:
    for other in (f"{issuer.url}/", issuer.url.upper(), f" {issuer.url}", [issuer.url]):
        assert denied(issuer, token(issuer, iss=other)) == "access.token"


@pytest.mark.parametrize("skew", [-LEEWAY_S, 0, LEEWAY_S])
def test_clocks_may_differ_by_the_leeway_and_no_more(issuer: Issuer, skew: int) -> None:
    """A token of one second, and a host whose clock is `skew` ahead of its issuer's."""

    async def ask(found: Oidc, clock: Clock) -> list[str]:
        codes = []
        shown = token(issuer, iat=NOW, nbf=NOW, exp=NOW + 1)
        for seconds in (-LEEWAY_S - 1, -LEEWAY_S, 0, LEEWAY_S, LEEWAY_S + 1):
            clock.now = NOW + seconds + skew
            try:
                await found.check(shown)
                codes.append("taken")
            except AccessDenied as error:
                codes.append(error.code)
        return codes

    whole = ["access.token", "taken", "taken", "taken", "access.expired"]
    ahead = ["taken", "taken", "taken", "access.expired", "access.expired"]
    behind = ["access.token", "access.token", "taken", "taken", "taken"]
    assert asking(issuer, ask) == {0: whole, LEEWAY_S: ahead, -LEEWAY_S: behind}[skew]


def test_neither_iat_nor_nbf_may_be_of_the_future(issuer: Issuer) -> None:
    for claim in ("iat", "nbf"):
        late: dict[str, Any] = {claim: NOW + LEEWAY_S + 1}
        early: dict[str, Any] = {claim: NOW + LEEWAY_S}
        assert denied(issuer, token(issuer, **late)) == "access.token"
        assert taken(issuer, token(issuer, **early)).name == "oidc:alice"


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_a_token_that_nobody_signed_is_refused(issuer: Issuer) -> None:
    whole = token(issuer, None, "none")
    head, body, _ = whole.split(".")
    signature = token(issuer).split(".")[2]
    for alg in ("none", "None", "NONE", ""):
        header = part({"alg": alg, "kid": "k1", "typ": "JWT"})
        for shown in (f"{header}.{body}.", f"{header}.{body}.{signature}", f"{header}.{body}.AA"):
            assert denied(issuer, shown) == "access.token"
    assert denied(issuer, f"{head}.{body}.") == "access.token"


@pytest.mark.parametrize("form", ["pem", "der", "modulus", "jwk"])
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_public_key_is_nobodys_shared_secret(issuer: Issuer, form: str, algorithm: str) -> None:
    public = RSA.public_key()
    secret = {
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "modulus": jwk(RSA)["n"].encode(),
        "jwk": json.dumps(jwk(RSA)).encode(),
    }[form]
    body = token(issuer).split(".")[1]
    signed = f"{part({'alg': algorithm, 'kid': 'k1'})}.{body}"
    digest = hmac.digest(secret, signed.encode(), algorithm.replace("HS", "sha"))
    mac = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    assert denied(issuer, f"{signed}.{mac}") == "access.token"


def test_a_shared_secret_that_the_issuer_publishes_is_no_key(issuer: Issuer) -> None:
    secret = hashlib.sha512(b"x").digest()
    octets = {"kty": "oct", "k": base64.urlsafe_b64encode(secret).decode().rstrip("="), "kid": "k2", "alg": "HS256"}
    issuer.gives(jwk(RSA), octets)
    assert denied(issuer, token(issuer, secret, "HS256", kid="k2")) == "access.token"


def test_another_key_of_the_same_name_does_not_count(issuer: Issuer) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert denied(issuer, token(issuer, other)) == "access.token"
    head, body, signature = token(issuer).split(".")
    changed = part({**json.loads(base64.urlsafe_b64decode(body + "==")), "roles": ["belljar-admins"]})
    assert denied(issuer, f"{head}.{changed}.{signature}") == "access.token"


@pytest.mark.parametrize(
    "published",
    [
        {"use": "enc"},
        {"key_ops": ["encrypt"]},
        {"key_ops": "verify"},
        {"alg": "RS512"},
        {"alg": "HS256"},
        {"alg": "RSA-OAEP"},
        {"alg": ["RS256"]},
        {"kty": "EC"},
        {"n": "AQAB"},
        {"n": "!"},
        {"e": None},
        {"kid": "k2"},
        {"kid": 7},
    ],
)
def test_a_key_is_used_for_what_it_is_published_for(issuer: Issuer, published: dict[str, Any]) -> None:
    issuer.gives(jwk(ED, "k0"), {**jwk(RSA), **published})
    assert denied(issuer, token(issuer)) == "access.token"


def test_of_keys_with_one_name_the_one_with_the_algorithm_of_the_token_counts(issuer: Issuer) -> None:
    issuer.gives(jwk(RSA), jwk(P256), jwk(ED))
    assert taken(issuer, token(issuer)).name == "oidc:alice"
    assert taken(issuer, token(issuer, P256, "ES256")).name == "oidc:alice"
    assert taken(issuer, token(issuer, ED, "EdDSA")).name == "oidc:alice"
    assert denied(issuer, token(issuer, P521, "ES512")) == "access.token"
    assert denied(issuer, token(issuer, ec.generate_private_key(ec.SECP256R1()), "ES256")) == "access.token"


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_an_rsa_key_of_less_than_2048_bits_is_none(issuer: Issuer) -> None:
    issuer.gives(jwk(WEAK), jwk(RSA, "k2"))
    assert taken(issuer, token(issuer, kid="k2")).name == "oidc:alice"
    assert denied(issuer, token(issuer, WEAK)) == "access.token"


def test_a_token_may_leave_out_the_name_of_the_only_key(issuer: Issuer) -> None:
    assert taken(issuer, token(issuer, kid=None)).name == "oidc:alice"
    issuer.gives(jwk(RSA, None))
    assert taken(issuer, token(issuer, kid=None)).name == "oidc:alice"
    issuer.gives(jwk(RSA), jwk(ED, "k2"))
    assert denied(issuer, token(issuer, kid=None)) == "access.token"


@pytest.mark.parametrize("headers", [{"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"kid": ["k1"]}, {"kid": 1}])
def test_a_header_that_asks_for_more_is_refused(issuer: Issuer, headers: dict[str, Any]) -> None:
    body = token(issuer).split(".")[1]
    signed = f"{part({'alg': 'RS256', 'kid': 'k1', **headers})}.{body}"
    signature = base64.urlsafe_b64encode(RSA.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))
    assert denied(issuer, f"{signed}.{signature.rstrip(b'=').decode()}") == "access.token"


def test_keys_that_a_token_brings_along_do_not_count(issuer: Issuer) -> None:
    with Issuer(jwk(ED)) as attacker:
        headers = {"jku": f"{attacker.url}/keys", "jwk": jwk(ED), "x5u": attacker.url}
        assert denied(issuer, token(issuer, ED, "EdDSA", headers=headers)) == "access.token"
        assert attacker.asked == 0


# What a stranger can show. The text of a header is Latin-1; a caller may pass on anything.
PARTS = st.text("ABCabc012_-", max_size=20) | st.binary(max_size=40).map(
    lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
HEADERS = st.fixed_dictionaries(
    {}, optional={"alg": JSON | st.just("RS256"), "kid": JSON | st.just("k1"), "crit": JSON}
)
CLAIMS = st.fixed_dictionaries({}, optional=dict.fromkeys(("iss", "aud", "sub", "exp", "iat", "nbf", "jti"), JSON))


@pytest.fixture(scope="module")
def known() -> Iterator[Issuer]:
    with Issuer(jwk(RSA)) as issuer:
        yield issuer


@given(
    st.text()
    | st.text(st.characters(codec="latin-1"))
    | st.tuples(PARTS, PARTS, PARTS).map(".".join)
    | st.tuples(HEADERS.map(part), CLAIMS.map(part), PARTS).map(".".join)
)
@example("\ud800.\ud800.\ud800")
@example(f"{'A' * TOKEN_BYTES_MAX}.A.A")
@example(part({"alg": "RS256"}) + "." + base64.urlsafe_b64encode(b"[" * 9000).decode().rstrip("=") + ".AA")
@example(base64.urlsafe_b64encode(b"[" * 9000).decode().rstrip("=") + ".e30.AA")
@example(base64.urlsafe_b64encode(b'{"alg":' + b"9" * 9000 + b"}").decode().rstrip("=") + ".e30.AA")
def test_any_text_is_refused_and_nothing_else(known: Issuer, text: str) -> None:
    assert denied(known, text) == "access.token"


@given(CLAIMS | JSON)
def test_whatever_an_issuer_signs_is_taken_or_refused(known: Issuer, claims: Any) -> None:
    body = claims if not isinstance(claims, dict) else {**jwt_claims(known), **claims}
    shown = jwt.api_jws.encode(json.dumps(body).encode(), RSA, "RS256", headers={"kid": "k1"})

    async def ask(found: Oidc, _: Clock) -> str:
        try:
            return (await found.check(shown)).name
        except AccessDenied as error:
            return error.code

    assert asking(known, ask).split(".")[0].split(":")[0] in ("access", "oidc")


def jwt_claims(issuer: Issuer) -> dict[str, Any]:
    body = token(issuer).split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return found


# ------------------------------------------------------------------------------------------------------ the keys


def test_keys_are_fetched_once_for_however_many_ask(issuer: Issuer) -> None:
    async def ask(found: Oidc, _: Clock) -> None:
        shown = token(issuer)
        await asyncio.gather(*(found.check(shown) for _ in range(50)))
        await found.check(shown)

    asking(issuer, ask)
    assert issuer.asked == 1


def test_strangers_cause_one_fetch_in_the_time_of_a_cooldown(issuer: Issuer) -> None:
    async def ask(found: Oidc, clock: Clock) -> None:
        await found.check(token(issuer))
        for number in range(50):
            with pytest.raises(AccessDenied):
                await found.check(token(issuer, ED, "EdDSA", kid=f"x{number}"))
        assert issuer.asked == 1
        for fetches in (2, 3):
            clock.now += COOLDOWN_S
            for number in range(50):
                with pytest.raises(AccessDenied):
                    await found.check(token(issuer, ED, "EdDSA", kid=f"x{number}"))
            assert issuer.asked == fetches

    asking(issuer, ask)


def test_a_key_that_its_issuer_replaced_is_found_after_the_cooldown(issuer: Issuer) -> None:
    async def ask(found: Oidc, clock: Clock) -> None:
        await found.check(token(issuer))
        issuer.gives(jwk(ED, "k2"))
        new = token(issuer, ED, "EdDSA", kid="k2")
        clock.now += COOLDOWN_S - 1
        with pytest.raises(AccessDenied):
            await found.check(new)
        clock.now += 1
        await found.check(new)
        # What is gone from the set is gone.
        with pytest.raises(AccessDenied):
            await found.check(token(issuer))

    asking(issuer, ask)


def test_keys_are_renewed_while_they_are_used_and_nobody_waits(issuer: Issuer) -> None:
    async def ask(found: Oidc, clock: Clock) -> None:
        shown = token(issuer, exp=NOW + 10_000)
        await found.check(shown)
        issuer.may_answer.clear()
        clock.now += FRESH_S
        for _ in range(5):
            await found.check(shown)
        await asked_again(issuer)
        issuer.may_answer.set()
        issuer.gives(jwk(ED, "k2"))

    asking(issuer, ask)
    assert issuer.asked == 2


def test_a_key_that_its_issuer_removed_while_nobody_asked_is_not_taken_once_more(issuer: Issuer) -> None:
    """Neither by who comes first after the rest nor by who comes while the issuer is asked."""

    async def ask(found: Oidc, clock: Clock) -> None:
        shown = token(issuer, exp=NOW + 10_000)
        await found.check(shown)
        issuer.gives(jwk(ED, "k2"))
        clock.now += LATE_S
        issuer.may_answer.clear()
        first = asyncio.create_task(found.check(shown))
        await asked_again(issuer)
        second = asyncio.create_task(found.check(shown))
        await asyncio.sleep(0)  # so far it goes without the issuer
        assert not second.done()
        issuer.may_answer.set()
        for asked in (first, second):
            with pytest.raises(AccessDenied):
                await asked

    asking(issuer, ask)
    assert issuer.asked == 2


def test_an_issuer_that_is_down_after_a_rest_is_waited_for_once(issuer: Issuer) -> None:
    async def ask(found: Oidc, clock: Clock) -> None:
        shown = token(issuer, exp=NOW + 10_000)
        await found.check(shown)
        issuer.status = 503
        clock.now += LATE_S
        await found.check(shown)
        assert issuer.asked == 2
        clock.now += COOLDOWN_S
        issuer.may_answer.clear()
        await found.check(shown)
        issuer.may_answer.set()
        # That it was down a while ago is no reason to believe that it still is.
        await given_up(found)
        issuer.status = 200
        issuer.gives(jwk(ED, "k2"))
        clock.now += LATE_S
        with pytest.raises(AccessDenied):
            await found.check(shown)

    asking(issuer, ask)


@pytest.mark.parametrize("left", [[], [{"kty": "oct", "k": "AAAA", "kid": "k1"}]], ids=["none", "useless"])
def test_an_issuer_that_takes_back_all_its_keys_is_believed(issuer: Issuer, left: list[dict[str, Any]]) -> None:
    async def ask(found: Oidc, clock: Clock) -> None:
        shown = token(issuer, exp=NOW + 10_000)
        await found.check(shown)
        issuer.gives(*left)
        clock.now += LATE_S
        for _ in range(2):
            with pytest.raises(HostFault, match="no key that can be used"):
                await found.check(shown)
        issuer.gives(jwk(RSA))
        clock.now += COOLDOWN_S
        await found.check(shown)

    asking(issuer, ask)


def test_an_issuer_that_is_down_is_no_denial(issuer: Issuer) -> None:
    async def ask(found: Oidc, clock: Clock) -> None:
        shown = token(issuer, exp=NOW + 10_000)
        issuer.status = 503
        for _ in range(3):
            with pytest.raises(HostFault, match=r"cannot be fetched \(it answered 503\)"):
                await found.check(shown)
        assert issuer.asked == 1  # not each time
        issuer.status = 200
        clock.now += 5
        await found.check(shown)
        # Keys that are known go on for a while; of others nobody knows.
        issuer.status = 503
        clock.now += STALE_S - 1
        await found.check(shown)
        await given_up(found)
        with pytest.raises(HostFault):
            await found.check(token(issuer, ED, "EdDSA", kid="k9"))
        clock.now += 1
        with pytest.raises(HostFault):
            await found.check(shown)

    asking(issuer, ask)


def test_an_issuer_that_is_not_there_is_no_denial() -> None:
    with Issuer(jwk(RSA)) as gone:
        pass

    async def ask(found: Oidc, _: Clock) -> None:
        with pytest.raises(HostFault, match="look whether"):
            await found.check(token(gone))

    asking(gone, ask)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"keys": 7}',
        b'{"keys": []}',
        b'{"keys": [7]}',
        b'{"keys": [{"kty": "RSA"}]}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"keys": [' + b" " * oidc._SET_BYTES_MAX + b"]}",
    ],
    ids=range(10),
)
def test_an_issuer_that_gives_no_keys_is_no_denial(issuer: Issuer, body: bytes) -> None:
    issuer.body = body

    async def ask(found: Oidc, _: Clock) -> None:
        with pytest.raises(HostFault):
            await found.check(token(issuer))

    asking(issuer, ask)


def test_a_fetch_that_fails_keeps_the_keys_that_are_known(issuer: Issuer) -> None:
    async def ask(found: Oidc, clock: Clock) -> None:
        shown = token(issuer, exp=NOW + 10_000)
        await found.check(shown)
        issuer.body = b"{}"
        clock.now += COOLDOWN_S
        with pytest.raises(HostFault):
            await found.check(token(issuer, ED, "EdDSA", kid="k9"))
        await found.check(shown)

    asking(issuer, ask)


def test_an_issuer_that_sends_bytes_one_by_one_holds_nobody_up(issuer: Issuer) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in issuer.body.ljust(20_000))
    issuer.raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    async def ask(found: Oidc, _: Clock) -> tuple[float, float]:
        waits: list[float] = []

        async def neighbour() -> None:
            while True:
                before = time.thread_time()
                await asyncio.sleep(0)
                waits.append(time.thread_time() - before)

        going_on = asyncio.create_task(neighbour())
        await found.check(token(issuer))
        going_on.cancel()
        return max(waits), sum(waits)

    longest, whole = asking(issuer, ask)
    assert longest < whole / 4


def test_a_redirect_is_not_followed(issuer: Issuer) -> None:
    issuer.status = 302

    async def ask(found: Oidc, _: Clock) -> None:
        with pytest.raises(HostFault, match="it answered 302"):
            await found.check(token(issuer))

    asking(issuer, ask)
    assert issuer.asked == 1


def test_an_issuer_that_does_not_answer_is_given_up(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "_FETCH_S", 0.05)
    issuer.may_answer.clear()

    async def ask(found: Oidc, _: Clock) -> None:
        with pytest.raises(HostFault, match="it took longer than"):
            await found.check(token(issuer))

    asking(issuer, ask)


def test_whoever_is_cancelled_ends_no_fetch_of_others(issuer: Issuer) -> None:
    async def ask(found: Oidc, _: Clock) -> None:
        issuer.may_answer.clear()
        first = asyncio.create_task(found.check(token(issuer)))
        second = asyncio.create_task(found.check(token(issuer)))
        async with in_time(PATIENCE_S, "the issuer is asked"):
            while not issuer.asked:  # noqa: ASYNC110 (another thread counts)
                await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.wait([first])
        issuer.may_answer.set()
        assert (await second).name == "oidc:alice"

    asking(issuer, ask)
    assert issuer.asked == 1


def test_closing_gives_up_what_is_being_fetched(issuer: Issuer) -> None:
    async def ask(found: Oidc, _: Clock) -> asyncio.Task[Principal]:
        issuer.may_answer.clear()
        asked = asyncio.create_task(found.check(token(issuer)))
        async with in_time(PATIENCE_S, "the issuer is asked"):
            while not issuer.asked:  # noqa: ASYNC110 (another thread counts)
                await asyncio.sleep(0.01)
        await found.aclose()
        with pytest.raises(HostFault):
            await asked
        return asked

    asking(issuer, ask)


def test_bad_tokens_are_throttled_and_good_ones_behind_the_same_proxy_are_not(issuer: Issuer, tmp_path: Path) -> None:
    async def go() -> None:
        log = OwnLog(None)
        now: dict[str, Any] = {"iat": int(time.time()) - 5, "exp": int(time.time()) + 600}
        expired: dict[str, Any] = {"iat": 1, "exp": 2}
        async with Authenticator.opened(
            log.journal, log, Keys(tmp_path / "keys"), AccessSettings(oidc=settings(issuer))
        ) as found:
            codes = []
            for shown in [token(issuer, **expired)] * 20 + [token(issuer, aud="other", **now)] * 15:
                with pytest.raises(AccessDenied) as caught:
                    await found.check(shown, address="10.0.0.1")
                codes.append(caught.value.code)
            expected = ["access.expired"] * 20 + ["access.token"] * 10 + ["access.throttled"] * 5
            assert codes == expected
            good = token(issuer, **now)
            assert (await found.check(good, address="10.0.0.1")).name == "oidc:alice"
            session = await found.log_in(good, address="10.0.0.1")
            assert session.until == now["exp"]
            # A key is not taken for a token.
            _, key = await found.keys.make(Tenant("acme"), "runner", by="user:root")
            assert (await found.check(key, address="10.0.0.2")).name.startswith("key:")
        await log.aclose()

    asyncio.run(go())


def test_a_token_that_was_good_ends_in_its_time_also_while_its_issuer_is_down(issuer: Issuer, tmp_path: Path) -> None:
    async def ask(found: Oidc, clock: Clock) -> None:
        log = OwnLog(None)
        keys = ApiKeys(log.journal, log)
        sessions = Sessions(keys, Keys(tmp_path / "keys"), clock=clock)
        here = Authenticator(keys, sessions, found)
        shown = token(issuer, exp=NOW + 10_000)
        await here.check(shown, address="10.0.0.1")
        issuer.status = 503
        clock.now += STALE_S
        with pytest.raises(AccessUnavailable):
            await here.check(shown, address=None)
        clock.now = NOW + 10_000 + LEEWAY_S
        with pytest.raises(AccessDenied) as caught:
            await here.check(shown, address=None)
        assert caught.value.code == "access.expired"
        with pytest.raises(AccessUnavailable):  # of a new one nobody knows whether it was ever good
            await here.check(shown, address="10.0.0.1")
        await log.aclose()

    asking(issuer, ask)


# -------------------------------------------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"issuer": "http://login.example.com"}, "issuer has to begin with https"),
        ({"jwks_url": "http://login.example.com/keys"}, "jwks_url has to begin with https"),
        ({"jwks_url": "http://127.0.0.1.example.com/keys"}, "has to begin with https"),
        ({"jwks_url": "file:///etc/passwd"}, "is no URL"),
        ({"jwks_url": "https://user:word@login.example.com/keys"}, "without user and password"),
        ({"jwks_url": "ftp://login.example.com/keys"}, "has to begin with https"),
        ({"jwks_url": "https://"}, "is no URL"),
        ({"jwks_url": "https://[::1"}, "is no URL"),
        ({"issuer": "https://a b"}, "is no URL"),
        ({"audience": ""}, "audience is empty"),
        ({"roles": {}}, "roles is empty"),
        ({"roles_claim": ()}, "roles_claim is empty"),
        ({"tenant_claim": ("a", "")}, "tenant_claim is empty"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        Oidc(settings("https://login.example.com", **wrong))
    assert caught.value.code == "access.oidc"


@pytest.mark.parametrize(
    "url", ["https://login.example.com", "http://127.0.0.1:8080", "http://[::1]:80", "http://localhost"]
)
def test_http_is_for_this_machine_alone(url: str) -> None:
    assert settings(url).checked().issuer == url
