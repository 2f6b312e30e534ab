"""What tokens cost, in integer nano-dollars, always rounded up.

A price is a *sheet*: one or more tiers, each valid from a number of input tokens on. As providers do it, the tier that
a request reaches holds for all of its tokens. Two questions are asked of a sheet:

* `cost`: what did this usage cost? Asked after the call, to settle.
* `bound`: what is the most that a call of this size can cost? Asked before the call, to reserve. It takes the most
  expensive tier that so many input tokens can reach, and the most expensive kind of input token: what is written to the
  provider's cache, which costs more than what is only read. For every usage within the bounds, `cost <= bound`.

Prices come from the table in `genai-prices`, a data package that uses no network, and from overrides. A model that is
in neither has no price, and a model without a price is not called: only an override of 0 makes a model free.

A table is fixed at one moment, when it is made: a price that changes while a call is under way cannot make its
settlement differ from its reservation.

What the cache keeps for an hour costs more than what it keeps for five minutes: twice the price of input, and not one
and a quarter. Only a model that asks for it (`cache_ttl`) reserves for it; one that reports it pays for it, always.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import math
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

import msgspec

from belljar.errors import InvalidInput, PolicyDenied
from belljar.models.base import Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, Provider, Tier, TieredPrices

__all__ = ["FREE", "NANOUSD_PER_TOKEN_IN_USD_PER_MTOK", "Prices", "Rates", "SelfPriced"]

# One US dollar per million tokens, the unit of price lists, is this many nano-dollars per token.
NANOUSD_PER_TOKEN_IN_USD_PER_MTOK: Final = 1000

# The list's name of the provider for a beginning of a model's name; all others are Anthropic's. Looking in others would
# use the price of another provider's model of that name.
_PROVIDERS: Final = {"openai:": "openai", "bedrock:": "aws", "vertex:": "google", "foundry:": "azure"}
_PROVIDER: Final = "anthropic"
_SHOWN_MAX: Final = 80
# What an hour in the cache costs, compared with five minutes.
_HOUR_TO_MINUTES: Final = Decimal("1.6")
# A price takes some hundred bytes.
_FILE_BYTES_MAX: Final = 1 << 20

# Room for any count times any price without rounding; losing a digit raises `Inexact`.
_EXACT: Final = Context(prec=200, traps=[Inexact])


def _sum(*terms: tuple[int, Decimal]) -> Decimal:
    total = Decimal(0)
    for count, price in terms:
        if count:
            total = _EXACT.add(total, _EXACT.multiply(Decimal(count), price))
    return total


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prices per token in nano-dollars; fractions are allowed (2 USD per million tokens is 2000).

    Where cache prices are not given, cache reads and writes cost what input costs. Where only that of writing is given,
    writing for an hour costs 1.6 times as much, as with Anthropic (twice the price of input, to one and a quarter).

    Raises:
        ValueError: a price is negative or not a number.
    """

    input_nanousd_per_token: Decimal
    output_nanousd_per_token: Decimal
    cache_read_nanousd_per_token: Decimal | None = None
    cache_write_nanousd_per_token: Decimal | None = None
    cache_write_1h_nanousd_per_token: Decimal | None = None

    def __post_init__(self) -> None:
        cache = (self.cache_read, self.cache_write, self.cache_write_1h)
        given = [self.input_nanousd_per_token, self.output_nanousd_per_token, *cache]
        if not all(price.is_finite() and price >= 0 for price in given):
            raise ValueError("a price is a number of at least 0")

    @property
    def cache_read(self) -> Decimal:
        """Nano-dollars per token read from the cache."""
        given = self.cache_read_nanousd_per_token
        return self.input_nanousd_per_token if given is None else given

    @property
    def cache_write(self) -> Decimal:
        """Nano-dollars per token written to the cache."""
        given = self.cache_write_nanousd_per_token
        return self.input_nanousd_per_token if given is None else given

    @property
    def cache_write_1h(self) -> Decimal:
        """Nano-dollars per token written to the cache for an hour."""
        if (given := self.cache_write_1h_nanousd_per_token) is not None:
            return given
        written = self.cache_write_nanousd_per_token
        return self.input_nanousd_per_token if written is None else written * _HOUR_TO_MINUTES

    def cost(self, usage: Usage) -> Decimal:
        """Nano-dollars, exact."""
        return _sum(
            (usage.input_tokens, self.input_nanousd_per_token),
            (usage.cache_read_tokens, self.cache_read),
            (usage.cache_write_tokens - usage.cache_write_1h_tokens, self.cache_write),
            (usage.cache_write_1h_tokens, self.cache_write_1h),
            (usage.output_tokens, self.output_nanousd_per_token),
        )

    def bound(self, input_tokens: int, output_tokens: int, *, hour: bool = False) -> Decimal:
        """Nano-dollars, exact: all input priced as the most expensive kind; with `hour`, of those for an hour too."""
        dearest = max(self.input_nanousd_per_token, self.cache_read, self.cache_write)
        if hour:
            dearest = max(dearest, self.cache_write_1h)
        return _sum((input_tokens, dearest), (output_tokens, self.output_nanousd_per_token))


FREE: Final = Rates(Decimal(0), Decimal(0))

# (from how many input tokens on, exclusive; the prices), in ascending order. The first starts below zero.
_Sheet = tuple[tuple[int, Rates], ...]


class SelfPriced(Protocol):
    """A model that states its own price, as scripted ones do; None states none."""

    @property
    def name(self) -> str: ...

    @property
    def rates(self) -> Rates | None: ...


class Prices:
    """What models cost, as of one moment.

    Args:
        overrides: for each model name, a `Rates` or a table with the fields of `Rates`. They take precedence over the
            list.
        at: the moment whose prices apply; now, if not given.

    Raises:
        InvalidInput: an override is not a table of prices.
    """

    def __init__(
        self, overrides: Mapping[str, Rates | Mapping[str, object]] | None = None, *, at: datetime | None = None
    ) -> None:
        self._at = datetime.now(UTC) if at is None else at
        self._sheets: dict[str, _Sheet] = {}
        for model, table in (overrides or {}).items():
            self._sheets[model] = ((-1, _rates(model, table)),)

    @classmethod
    def load(cls, path: Path) -> Prices:
        """The public list, overridden by the prices in a file, in US dollars per million tokens::

            [price."my-model"]
            input_usd_per_mtok = 3.0
            output_usd_per_mtok = 15.0
            cache_read_usd_per_mtok = 0.3       # optional, as is cache_write_usd_per_mtok; else what input costs
            cache_write_1h_usd_per_mtok = 6.0   # optional: what the cache keeps for an hour

        Raises:
            InvalidInput: `prices.file`: it cannot be read, or is not such a file.
        """
        try:
            with path.open("rb") as file:
                text = file.read(_FILE_BYTES_MAX + 1)
            if len(text) > _FILE_BYTES_MAX:
                raise ValueError(f"it has more than {_FILE_BYTES_MAX} bytes")
            said = msgspec.convert(tomllib.loads(text.decode(), parse_float=Decimal), _File)
            return cls({model: price.rates for model, price in said.price.items()})
        except OSError as error:
            why = error.strerror or str(error)
        except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or other keys and values
            why = str(error)
        raise InvalidInput(
            f'the prices in {str(path)!r} cannot be read ({why}): write [price."NAME"] with input_usd_per_mtok and '
            "output_usd_per_mtok",
            code="prices.file",
        )

    async def load_for(self, model: str) -> None:
        """Load the public list, in a thread, if this model's price may be there: it takes half a second."""
        if model not in self._sheets:
            await asyncio.to_thread(_listing, _provider(model)[0])

    def has(self, model: str) -> bool:
        return self._find(model) is not None

    def cost(self, model: str, usage: Usage) -> int:
        """What `usage` cost, in nano-dollars, rounded up.

        Raises:
            PolicyDenied: `model.unpriced`.
        """
        total = usage.total_input_tokens
        reached = [rates for start, rates in self._sheet(model) if start < total]
        return math.ceil(reached[-1].cost(usage))

    def bound(self, model: str, input_tokens: int, output_tokens: int, *, hour: bool = False) -> int:
        """The most that a call with at most so many tokens can cost, in nano-dollars, rounded up.

        With `hour` the provider may keep the input in its cache for an hour.

        Raises:
            PolicyDenied: `model.unpriced`.
        """
        assert input_tokens >= 0
        assert output_tokens >= 0
        reachable = [rates for start, rates in self._sheet(model) if start < input_tokens]
        return math.ceil(max(rates.bound(input_tokens, output_tokens, hour=hour) for rates in reachable))

    def of(self, *models: object) -> Prices:
        """A copy of these prices, with those that some models state themselves.

        Raises:
            InvalidInput: the same name already has another price.
        """
        own = copy.copy(self)
        own._sheets = dict(self._sheets)
        for model in models:
            own.adopt(model)
        return own

    def adopt(self, model: object) -> None:
        """Adopt the price that a model states itself, if it does (`SelfPriced`).

        Raises:
            InvalidInput: the same name already has another price.
        """
        # Asking whether it is a `SelfPriced` takes a hundred times as long, and each run asks five times.
        if (rates := getattr(model, "rates", None)) is None:
            return
        name = cast("SelfPriced", model).name
        sheet: _Sheet = ((-1, _rates(name, rates)),)
        if self._sheets.setdefault(name, sheet) != sheet:
            raise InvalidInput(
                f"the model {_shown(name)} already has another price: give one of the two another name",
                code="model.price_conflict",
            )

    def _sheet(self, model: str) -> _Sheet:
        sheet = self._find(model)
        if sheet is None:
            raise PolicyDenied(
                f"no price is known for the model {_shown(model)}, so it is not called: add an override with "
                "input_nanousd_per_token and output_nanousd_per_token (1 USD per million tokens is 1000) in "
                "belljar.Prices, `rates` to the model object, or a file of prices with --prices FILE",
                code="model.unpriced",
            )
        return sheet

    def _find(self, model: str) -> _Sheet | None:
        # What is found in the list is not kept: guests choose names too, and the list matches some by prefix.
        return self._sheets.get(model) or _listed(model, self._at)


class _Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    input_usd_per_mtok: Decimal
    output_usd_per_mtok: Decimal
    cache_read_usd_per_mtok: Decimal | None = None
    cache_write_usd_per_mtok: Decimal | None = None
    cache_write_1h_usd_per_mtok: Decimal | None = None

    @property
    def rates(self) -> Rates:
        per_token = NANOUSD_PER_TOKEN_IN_USD_PER_MTOK
        cache = (self.cache_read_usd_per_mtok, self.cache_write_usd_per_mtok, self.cache_write_1h_usd_per_mtok)
        return Rates(
            self.input_usd_per_mtok * per_token,
            self.output_usd_per_mtok * per_token,
            *(None if price is None else price * per_token for price in cache),
        )


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    price: dict[str, _Price]


def _rates(model: str, table: Rates | Mapping[str, object]) -> Rates:
    if isinstance(table, Rates):
        return table
    try:
        return msgspec.convert(dict(table), Rates)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"the price of the model {_shown(model)} is wrong: {error}: give input_nanousd_per_token and "
            "output_nanousd_per_token, and if they differ cache_read_nanousd_per_token, "
            "cache_write_nanousd_per_token and cache_write_1h_nanousd_per_token",
            code="model.price",
        ) from None


def _provider(model: str) -> tuple[str, str]:
    """The provider of a model in the list of `genai-prices`, and the name that it has there."""
    for prefix, provider in _PROVIDERS.items():
        if model.startswith(prefix):
            return provider, model.removeprefix(prefix)
    return _PROVIDER, model


@functools.cache
def _listing(provider: str) -> Provider:
    """The provider's models in the list of `genai-prices`."""
    # Imported here, because it takes half a second to load, and scripted models state their own price.
    import genai_prices.data_snapshot

    return genai_prices.data_snapshot.get_snapshot().find_provider(None, provider, None)


def _listed(model: str, at: datetime) -> _Sheet | None:
    """The sheet in the list of `genai-prices`, or None if it does not list the model with an input and output price."""
    provider, name = _provider(model)
    listed = _listing(provider).find_model(name)
    if listed is None:
        return None
    price = listed.get_prices(at)
    starts = sorted({-1, *(tier.start for tier in _tiers(price))})
    tiers = [(start, _listed_rates(price, start + 1)) for start in starts]
    complete = [(start, rates) for start, rates in tiers if rates is not None]
    return tuple(complete) if len(complete) == len(tiers) else None


# The fields of a listed price that our requests can incur.
_FIELDS: Final = ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok")


def _tiers(price: ModelPrice) -> list[Tier]:
    values: list[Decimal | TieredPrices | None] = [getattr(price, field) for field in _FIELDS]
    return [tier for value in values if value is not None and not isinstance(value, Decimal) for tier in value.tiers]


def _listed_rates(price: ModelPrice, input_tokens: int) -> Rates | None:
    """The prices that hold for a request of so many input tokens."""
    values = [_at_tokens(getattr(price, field), input_tokens) for field in _FIELDS]
    given_input, given_output, *cache = values
    if not given_input or not given_output:  # absent, or 0: a listed zero is a gap in the list
        return None
    return Rates(given_input, given_output, *cache)


def _at_tokens(value: Decimal | TieredPrices | None, input_tokens: int) -> Decimal | None:
    if value is not None and not isinstance(value, Decimal):
        reached = [tier.price for tier in value.tiers if tier.start < input_tokens]
        value = reached[-1] if reached else value.base
    return None if value is None else value * NANOUSD_PER_TOKEN_IN_USD_PER_MTOK


def _shown(model: str) -> str:
    """A name for a message: guests choose names too, so it is quoted and cut."""
    return ascii(model if len(model) <= _SHOWN_MAX else model[:_SHOWN_MAX] + "...")
