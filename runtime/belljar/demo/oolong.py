"""OOLONG-Pairs, generated offline: a long list of questions by many users, and pairs of users to find.

The context is a header and then one line for each question::

    Date: Jun 16, 2024 || User: 98779 || Instance: Where is Glasgow ?

Every question falls into one of six classes, which the line does not name: to answer, one must read each line, label
it, count per user and compare all users with one another. So no slice of the context is enough, and the answer grows
with the square of the users.

Where the randomness comes from: only `Random.random()` of a seeded generator, whose sequence the standard library
promises to keep (it does not for `choice`, `randrange` or `shuffle`), and label weights rounded to integers, so that
the last bit of a platform's `exp` cannot move a label. The same `lines` and `seed` give the same text everywhere.

The class of a question follows from its template alone. Fillers are only filled in.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import combinations, product
from random import Random
from typing import TypeAlias, TypeVar, assert_never

from belljar.errors import InvalidInput

__all__ = [
    "DEMO_SEED",
    "DEMO_TASK",
    "FILLERS",
    "LABELS",
    "LINES_MAX",
    "PAIR_TASKS",
    "SLOT",
    "TEMPLATES",
    "WRONG_PAIRS_MAX",
    "AllAfter",
    "AllBefore",
    "AnyOf",
    "AtLeast",
    "Clause",
    "Corpus",
    "Exactly",
    "PairTask",
    "generate",
    "lines_for_tokens",
    "pair_task",
    "question",
    "score_f1",
]

_ABBREVIATION = "abbreviation"
_ENTITY = "entity"
_DESCRIPTION = "description and abstract concept"
_HUMAN = "human being"
_LOCATION = "location"
_NUMERIC = "numeric value"
LABELS: tuple[str, ...] = (_ABBREVIATION, _ENTITY, _DESCRIPTION, _HUMAN, _LOCATION, _NUMERIC)

_FIRST_DAY = date(2022, 2, 16)
_LAST_DAY = date(2025, 6, 21)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS_LONG = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_USER_ID_MIN, _USER_ID_MAX = 10_000, 99_999  # five digits
_POOL_SHARE = 0.8  # this share of the lines comes from the pool of regular users, the rest from anybody
_LINES_PER_POOL_USER = 10
LINES_MAX = 500_000  # 2**24 tokens and a bit; the pool of regular users must fit well into five-digit IDs

# Published sizes of this task: 188 lines at 2**13 tokens, 3,182 at 2**17, 25,531 at 2**20. A line through all three.
_HEADER_TOKENS = 440
_LINE_MILLITOKENS = 41_053

# The demo asks task 19 of the corpus of this seed: 33,545 pairs at 2**20 tokens, half a megabyte of answer. An answer
# of 1,000 to 100,000 pairs can be sent, scored and read. Nearly all others have hundreds of thousands to ten million
# there, because clauses that many users meet pair them by the million. Task 19 wants "exactly one" of two labels, and
# this seed makes one of them rare; where all labels are about as frequent, even task 19 has about 200,000 pairs.
DEMO_TASK = 19
DEMO_SEED = 1

WRONG_PAIRS_MAX = 1_000_000  # `score_f1` remembers no more distinct wrong pairs than this: about 100 MB

FILLERS: dict[str, tuple[str, ...]] = {
    "acronym": (
        "AIDS", "ASCII", "BBC", "CNN", "DNA", "FIFA", "GDP", "HTML", "IMF", "IQ", "LASER", "MRI", "NAFTA", "NASA",
        "NATO", "OPEC", "PDF", "RADAR", "RSVP", "SCUBA", "SONAR", "SPF", "UNESCO", "UNICEF", "VHS", "WHO", "WWW", "ZIP",
    ),
    "animal": (
        "albatross", "badger", "beaver", "camel", "cheetah", "cobra", "dolphin", "elephant", "falcon", "giraffe",
        "gorilla", "hedgehog", "hippopotamus", "kangaroo", "koala", "lobster", "octopus", "ostrich", "panda", "penguin",
        "raccoon", "salmon", "sea horse", "tortoise", "walrus", "wolverine", "woodpecker", "zebra",
    ),
    "city": (
        "Amsterdam", "Antwerp", "Athens", "Auckland", "Baghdad", "Bangkok", "Barcelona", "Berlin", "Bogota", "Boston",
        "Brussels", "Budapest", "Buenos Aires", "Cairo", "Chicago", "Copenhagen", "Dublin", "Edinburgh", "Florence",
        "Glasgow", "Hamburg", "Helsinki", "Istanbul", "Johannesburg", "Karachi", "Lagos", "Lima", "Lisbon", "Melbourne",
        "Mexico City", "Montreal", "Nairobi", "New Orleans", "Oslo", "Prague", "Rio de Janeiro", "San Francisco",
        "Seoul", "St. Petersburg", "Stockholm", "Toronto", "Vancouver", "Venice", "Vienna", "Warsaw", "Zurich",
    ),
    "concept": (
        "amnesia", "bipolar disorder", "bioluminescence", "cartography", "cholesterol", "cubism", "deism", "ethology",
        "existentialism", "fiberglass", "foreclosure", "genocide", "glaucoma", "home equity", "hypertension",
        "inflation", "leukemia", "metabolism", "nepotism", "osmosis", "ozone depletion", "pasteurization",
        "photosynthesis", "relativity", "sonata form", "stoicism", "supernova", "thermodynamics", "typhoid fever",
        "viscosity",
    ),
    "country": (
        "Argentina", "Australia", "Bangladesh", "Bolivia", "Botswana", "Brazil", "Cambodia", "Canada", "Chile",
        "Colombia", "Denmark", "Ecuador", "Egypt", "Ethiopia", "Finland", "Ghana", "Greece", "Hungary", "Iceland",
        "India", "Indonesia", "Japan", "Kenya", "Madagascar", "Malaysia", "Mongolia", "Morocco", "Nepal", "New Zealand",
        "Norway", "Peru", "Poland", "Portugal", "Romania", "South Africa", "Sri Lanka", "Sweden", "Thailand", "Turkey",
        "Uruguay", "Vietnam", "Zambia",
    ),
    "device": (
        "air conditioner", "barometer", "bicycle", "compass", "dishwasher", "electric motor", "fax machine",
        "gyroscope", "helicopter", "hourglass", "jet engine", "lawn mower", "lightning rod", "microscope",
        "microwave oven", "parachute", "pendulum clock", "phonograph", "printing press", "radio telescope",
        "refrigerator", "revolving door", "safety pin", "sewing machine", "steam engine", "submarine", "telegraph",
        "telescope", "thermometer", "toaster", "typewriter", "vacuum cleaner", "zipper",
    ),
    "dish": (
        "apple strudel", "baked beans", "borscht", "couscous", "fish chowder", "fried rice", "gazpacho", "goulash",
        "guacamole", "hummus", "lasagna", "marmalade", "meringue", "moussaka", "onion soup", "paella", "pancakes",
        "ratatouille", "risotto", "sauerkraut", "sourdough bread", "tortillas",
    ),
    "event": (
        "the American Civil War", "the Battle of Hastings", "the Battle of Waterloo", "the Black Death",
        "the Boston Tea Party", "the Crimean War", "the fall of Constantinople", "the fall of the Berlin Wall",
        "the first moon landing", "the French Revolution", "the Great Depression", "the Great Fire of London",
        "the Great Plague", "the gold rush", "the Hundred Years War", "the Korean War", "the Napoleonic Wars",
        "the October Revolution", "the Peloponnesian War", "the Russo-Japanese War", "the San Francisco earthquake",
        "the Spanish Armada", "the sinking of the Titanic", "the Treaty of Versailles", "the Wall Street crash",
    ),
    "landmark": (
        "the Alhambra", "the Arc de Triomphe", "the Brandenburg Gate", "the Brooklyn Bridge", "the Colosseum",
        "the Eiffel Tower", "the Empire State Building", "the Golden Gate Bridge", "the Great Sphinx",
        "the Hagia Sophia", "the Hermitage Museum", "the Kremlin", "the Leaning Tower", "the Little Mermaid",
        "the Louvre", "the Parthenon", "the Rialto Bridge", "the Sagrada Familia", "the Statue of Liberty",
        "the Sydney Opera House", "the Taj Mahal", "the Tower of London", "the Trevi Fountain", "the Uffizi Gallery",
        "the Winter Palace",
    ),
    "nature": (
        "Angel Falls", "Ayers Rock", "Baffin Island", "Death Valley", "Kilimanjaro", "Lake Baikal", "Lake Titicaca",
        "Lake Victoria", "Mount Etna", "Mount Everest", "Mount Fuji", "Niagara Falls", "the Amazon", "the Black Forest",
        "the Danube", "the Dead Sea", "the Gobi Desert", "the Grand Canyon", "the Great Barrier Reef",
        "the Mariana Trench", "the Matterhorn", "the Mekong", "the Mississippi", "the Nile", "the Okavango Delta",
        "the Orinoco", "the Rhine", "the Sahara", "the Strait of Gibraltar", "the Volga", "the Yangtze", "Vesuvius",
        "Victoria Falls",
    ),
    "person": (
        "Abraham Lincoln", "Ada Lovelace", "Agatha Christie", "Albert Einstein", "Alexander Fleming", "Amelia Earhart",
        "Antonio Vivaldi", "Benjamin Franklin", "Charles Darwin", "Charles Dickens", "Cleopatra", "Dmitri Mendeleev",
        "Emily Dickinson", "Ernest Hemingway", "Florence Nightingale", "Franz Kafka", "Frederic Chopin",
        "Galileo Galilei", "Genghis Khan", "Gustave Eiffel", "Isaac Newton", "Jane Austen", "Joan of Arc",
        "Johannes Kepler", "Julius Caesar", "Leo Tolstoy", "Leonardo da Vinci", "Louis Pasteur", "Ludwig van Beethoven",
        "Marco Polo", "Marie Curie", "Mark Twain", "Michael Faraday", "Napoleon Bonaparte", "Niels Bohr",
        "Nikola Tesla", "Rembrandt", "Simon Bolivar", "Vincent van Gogh", "Wolfgang Amadeus Mozart",
    ),
    "phrase": (
        "answer as soon as possible", "as far as I know", "before noon", "cash on delivery", "central processing unit",
        "chief executive officer", "compact disc", "department of transportation", "for example",
        "frequently asked questions", "general practitioner", "gross national product", "in other words",
        "liquid crystal display", "low frequency", "master of business administration", "miles per hour",
        "original equipment manufacturer", "personal computer", "post script", "random access memory",
        "revolutions per minute", "standard operating procedure", "unidentified flying object", "user interface",
        "value added tax",
    ),
    "phenomenon": (
        "acid rain", "an avalanche", "an earthquake", "an echo", "a lunar eclipse", "a mirage", "a rainbow",
        "a sandstorm", "a tornado", "altitude sickness", "color blindness", "continental drift", "hay fever", "hiccups",
        "insomnia", "migraine headaches", "ocean tides", "quicksand", "red hair", "sea sickness", "static electricity",
        "sunburn", "thunder", "tooth decay", "tsunamis",
    ),
    "work": (
        "A Christmas Carol", "Anna Karenina", "Casablanca", "Citizen Kane", "Crime and Punishment", "Don Giovanni",
        "Don Quixote", "Frankenstein", "Great Expectations", "Gulliver's Travels", "Hamlet", "Jane Eyre", "King Lear",
        "Madame Bovary", "Madame Butterfly", "Middlemarch", "Moby Dick", "Oliver Twist", "Pride and Prejudice",
        "Robinson Crusoe", "Swan Lake", "The Brothers Karamazov", "The Divine Comedy", "The Magic Flute",
        "The Nutcracker", "The Odyssey", "The Tempest", "Treasure Island", "War and Peace", "Wuthering Heights",
    ),
    "word": (
        "abacus", "algebra", "assassin", "avocado", "boycott", "candidate", "checkmate", "denim", "disaster", "dollar",
        "galaxy", "goodbye", "hazard", "jeans", "ketchup", "lunatic", "magazine", "muscle", "nickname", "orange",
        "pajamas", "quarantine", "robot", "salary", "sandwich", "shampoo", "tulip", "vaccine", "window", "zero",
    ),
}  # fmt: skip

TEMPLATES: dict[str, tuple[str, ...]] = {
    _ABBREVIATION: (
        "What does {acronym} stand for when it is written in capitals ?",
        "What do the letters {acronym} stand for in English ?",
        "What is the full form of the well-known letters {acronym} ?",
        "What is the expansion of the acronym {acronym} ?",
        "What does the abbreviation {acronym} mean in a newspaper ?",
        "What is {acronym} short for , when written in a report ?",
        "{acronym} is the abbreviation for what longer name ?",
        "What is the official abbreviation for '{phrase}' ?",
        "What is the usual abbreviation of the words '{phrase}' ?",
        "What is the acronym that people use for '{phrase}' ?",
        "How do you abbreviate '{phrase}' ?",
        "Which letters are the short form of '{phrase}' ?",
    ),
    _ENTITY: (
        "What color is the coat of a newborn {animal} ?",
        "What does the young {animal} eat in its first weeks ?",
        "What animal is the natural enemy of the {animal} ?",
        "What disease is most often carried by a wild {animal} ?",
        "What language do most people speak in {country} ?",
        "What currency is used by shops and banks in {country} ?",
        "What sport is the most popular one in {country} ?",
        "What religion is most widespread in {country} ?",
        "What is the national flower or tree of {country} ?",
        "What crop does {country} export to {country} ?",
        "What musical instrument did {person} play as a child ?",
        "What book did {person} keep beside the bed ?",
        "What kind of dog did {person} own for many years ?",
        "What newspaper is printed daily in {city} ?",
        "What river boat or ferry serves {city} in the summer ?",
        "What metal is the main part of the {device} made of ?",
        "What fuel did the first {device} run on ?",
        "What spice goes into {dish} to give it its taste ?",
        "What wine goes well with {dish} and {dish} ?",
        "Name a film that was adapted from {work} .",
        "What kind of stone was used to build {landmark} ?",
    ),
    _DESCRIPTION: (
        "What is {concept} ?",
        "What does the term {concept} mean to a layman ?",
        "What is the usual textbook definition of {concept} ?",
        "What is the difference between {concept} and {concept} ?",
        "What are the practical consequences of {concept} ?",
        "Why is {concept} so important in our daily life ?",
        "How would you explain {concept} to a child ?",
        "How does the ordinary household {device} work ?",
        "How do you repair a broken {device} at home ?",
        "What is the purpose of the {device} ?",
        "How is {dish} prepared in the traditional way ?",
        "What is the origin of the word '{word}' ?",
        "What is the meaning of the word '{word}' in a legal text ?",
        "What causes {phenomenon} ?",
        "Why do scientists still argue about {phenomenon} ?",
        "What effect does {phenomenon} have on the human body ?",
        "Why does the {animal} sleep during the day ?",
        "How does the {animal} find its way home ?",
        "What were the reasons for {event} ?",
        "Why did {person} leave home at such an early age ?",
        "What is the plot of {work} in a few sentences ?",
    ),
    _HUMAN: (
        "Who invented the {device} and built the first one ?",
        "Who patented the first {device} with an automatic switch ?",
        "Who wrote {work} ?",
        "Who is the hero or heroine of {work} ?",
        "Who translated {work} into English ?",
        "Who was the first woman to cross {nature} ?",
        "Who was the explorer that first mapped {nature} ?",
        "Who is the president or prime minister of {country} ?",
        "Who was the first ruler of {country} after independence ?",
        "Who was the mayor of {city} when {landmark} was restored ?",
        "Who designed {landmark} and oversaw its construction ?",
        "What architect rebuilt {landmark} ?",
        "Who taught {person} how to read and write ?",
        "Who was married to {person} ?",
        "What friend of {person} became a famous writer ?",
        "What composer dedicated a symphony to {person} ?",
        "What is the name of the general who won fame in {event} ?",
        "Which leaders were blamed for {event} ?",
        "Who coined the word '{word}' as it is used today ?",
        "Who discovered or first described {concept} ?",
        "What group of people first tamed the {animal} ?",
    ),
    _LOCATION: (
        "Where is {city} ?",
        "Where is {nature} ?",
        "Where is {landmark} ?",
        "Where can I see the {animal} in the wild ?",
        "Where was {person} born and brought up ?",
        "Where is the grave of {person} ?",
        "Where did {event} begin ?",
        "Where was the first {device} put on display ?",
        "Where does the recipe for {dish} come from ?",
        "What country is the old town of {city} in ?",
        "What country borders {country} to the north ?",
        "What continent or subcontinent is {country} part of ?",
        "What is the name of the capital of {country} ?",
        "What is the largest city in {country} after the capital ?",
        "What mountain range runs through {country} ?",
        "What river flows through the center of {city} ?",
        "What sea lies closest to {city} ?",
        "In which city does the story of {work} take place ?",
        "In what state or province does one find {nature} ?",
        "Through which countries does one travel from {city} to {city} ?",
        "Which city has a full-size copy of {landmark} ?",
    ),
    _NUMERIC: (
        "How many people live in {city} and its suburbs ?",
        "How many islands belong to {country} ?",
        "How many students are there at the university of {city} ?",
        "How many teeth does an adult {animal} have ?",
        "How many children did {person} have ?",
        "How many pages are there in the first edition of {work} ?",
        "How many soldiers died in {event} ?",
        "How many steps lead to the top of {landmark} ?",
        "How far is it from {city} to {city} ?",
        "How tall is {landmark} from the ground to the top ?",
        "How long did {event} last ?",
        "How old was {person} at the time of the first success ?",
        "How much does a used {device} cost ?",
        "How much does a grown {animal} weigh ?",
        "How fast can the {animal} run or swim ?",
        "How hot does it get at {nature} ?",
        "When did {event} come to an end ?",
        "When was the first working {device} invented ?",
        "What year was {person} born in , to the best of our knowledge ?",
        "What date is the national holiday of {country} ?",
        "What is the population of {country} ?",
        "What percentage of {country} is covered by forest ?",
        "What is the zip code or postal code of {city} ?",
        "At what temperature should {dish} be served ?",
    ),
}

_HEADER = """\
The following lines contain {lines} general-knowledge questions, one per line.
Each line has a date, a user ID and the question (the instance).
Every question falls into exactly one of six categories, by the kind of answer that it asks for:
{labels}.
The categories are not given in the lines: they have to be worked out from the questions.

"""

_QUESTION = """\
In the data above, list all pairs of user IDs (no duplicate pairs, lower ID first) such that {condition}.{only}
Each instance has exactly one of these labels: {labels}.
The data does not give the labels: work each one out from what its question asks for.
Answer with one pair per line, in the form (id1, id2), and nothing else."""

# A gap in a template, named after the fillers that go there.
SLOT = re.compile(r"\{([a-z]+)\}")
_PAIR = re.compile(r"\(\s{0,9}([0-9]{1,12})\s{0,9},\s{0,9}([0-9]{1,12})\s{0,9}\)")
_COUNT_WORDS = {1: "one instance", 2: "two instances"}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Corpus:
    """A generated context and what only its maker knows.

    `text` is the header and the lines, with a newline after each. `labels`, `users` and `dates` hold one entry for each
    line, in order.
    """

    text: str
    labels: list[str]
    users: list[int]
    dates: list[date]


def lines_for_tokens(tokens: int) -> int:
    """How many lines the published task has at a context of that many model tokens; at least 1.

    These are tokens of the tokenizer that the published sizes were counted with: dates and IDs cost it many.
    """
    return max(1, (tokens - _HEADER_TOKENS) * 1000 // _LINE_MILLITOKENS)


def generate(lines: int, *, seed: int = DEMO_SEED) -> Corpus:
    """Make a corpus of that many lines; the same arguments give the same text on every machine.

    Raises:
        InvalidInput: `lines` is below 1 or above `LINES_MAX`.
    """
    if not 1 <= lines <= LINES_MAX:
        raise InvalidInput(f"{lines} lines asked for; give a number from 1 to {LINES_MAX}", code="demo.lines")
    rng = Random(seed)  # noqa: S311 - a reproducible text is wanted, not a secret
    wheel = _label_wheel(rng)
    pool = _user_pool(rng, max(1, lines // _LINES_PER_POOL_USER))
    days = (_LAST_DAY - _FIRST_DAY).days + 1
    corpus = Corpus(_HEADER.format(lines=lines, labels=", ".join(LABELS)), [], [], [])
    rows: list[str] = []
    for _ in range(lines):
        label = _spin(rng, wheel)
        user = _pick(rng, pool) if rng.random() < _POOL_SHARE else _any_user(rng)
        day = _FIRST_DAY + timedelta(days=_below(rng, days))
        corpus.labels.append(label)
        corpus.users.append(user)
        corpus.dates.append(day)
        rows.append(f"Date: {_short_date(day)} || User: {user} || Instance: {_instance(rng, label)}\n")
    return replace(corpus, text=corpus.text + "".join(rows))


def _below(rng: Random, bound: int) -> int:
    return int(rng.random() * bound)


def _pick(rng: Random, items: Sequence[_T]) -> _T:
    return items[_below(rng, len(items))]


def _any_user(rng: Random) -> int:
    return _USER_ID_MIN + _below(rng, _USER_ID_MAX - _USER_ID_MIN + 1)


def _user_pool(rng: Random, size: int) -> list[int]:
    """Distinct IDs in the order drawn (a dict keeps it; a set would not)."""
    pool: dict[int, None] = {}
    while len(pool) < size:
        pool[_any_user(rng)] = None
    return list(pool)


def _label_wheel(rng: Random) -> list[tuple[int, str]]:
    """Running totals of label weights: a softmax over 1..30 drawn per label, flattened by a temperature from 2 to 6."""
    temperature = 2 + _below(rng, 5)
    wheel: list[tuple[int, str]] = []
    total = 0
    for label in LABELS:
        total += round(1000 * math.exp((1 + _below(rng, 30)) ** (1 / temperature)))
        wheel.append((total, label))
    return wheel


def _spin(rng: Random, wheel: list[tuple[int, str]]) -> str:
    point = _below(rng, wheel[-1][0])
    return next(label for total, label in wheel if point < total)


def _instance(rng: Random, label: str) -> str:
    """A template of the class, filled in; the same filler never twice in one question."""
    text = _pick(rng, TEMPLATES[label])
    used: set[str] = set()
    while slot := SLOT.search(text):
        filler = _pick(rng, FILLERS[slot[1]])
        if filler not in used:
            used.add(filler)
            text = text[: slot.start()] + filler + text[slot.end() :]
    return text


def _short_date(day: date) -> str:
    """`Jun 06, 2024`, in English whatever the locale."""
    return f"{_MONTHS[day.month - 1]} {day.day:02d}, {day.year}"


def _long_date(day: date) -> str:
    """`June 6, 2024`, in English whatever the locale."""
    return f"{_MONTHS_LONG[day.month - 1]} {day.day}, {day.year}"


# The pair tasks. A task is data: clauses that a user's questions meet or not. Its wording, its gold answer and the code
# of the scripted root model are all made from the clauses, so that they cannot drift apart.


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one question of any of these labels."""

    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AtLeast:
    label: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Exactly:
    label: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class AllAfter:
    """Each question of the label is dated after that day (so a user without any meets it)."""

    label: str
    day: date


@dataclass(frozen=True, slots=True)
class AllBefore:
    """Each question of the label is dated before that day (so a user without any meets it)."""

    label: str
    day: date


Clause: TypeAlias = AnyOf | AtLeast | Exactly | AllAfter | AllBefore


@dataclass(slots=True)
class _Tally:
    """One user's questions: how many of each label, and the first and last day of each label."""

    counts: Counter[str]
    first: dict[str, date]
    last: dict[str, date]


@dataclass(frozen=True, slots=True)
class PairTask:
    """Find all pairs of users such that one meets `side_a` and the other `side_b`.

    If `side_b` is None, both must meet `side_a`.
    """

    number: int
    side_a: tuple[Clause, ...]
    side_b: tuple[Clause, ...] | None = None

    @property
    def condition(self) -> str:
        """The condition in words, as the question has it."""
        if self.side_b is None:
            return f"both users have {_words(self.side_a)}"
        return f"one user has {_words(self.side_a)}, and the other user has {_words(self.side_b)}"

    def sides(self, corpus: Corpus) -> tuple[set[int], set[int]]:
        """The users who meet `side_a`, and those who meet `side_b` (the same set where both must meet `side_a`)."""
        tallies = _tallies(corpus)
        users_a = {user for user, tally in tallies.items() if _meets(tally, self.side_a)}
        if self.side_b is None:
            return users_a, users_a
        return users_a, {user for user, tally in tallies.items() if _meets(tally, self.side_b)}

    def gold(self, corpus: Corpus) -> set[tuple[int, int]]:
        """All pairs, lower ID first. Work and memory grow with the answer (see `gold_count`)."""
        users_a, users_b = self.sides(corpus)
        both, only_a = sorted(users_a & users_b), users_a - users_b
        pairs = set(combinations(both, 2))
        pairs.update((a, b) if a < b else (b, a) for a, b in product(only_a, users_b))
        pairs.update((a, b) if a < b else (b, a) for a, b in product(both, users_b - users_a))
        return pairs

    def gold_count(self, corpus: Corpus) -> int:
        """`len(gold(corpus))` without making the pairs: look before asking for millions."""
        users_a, users_b = self.sides(corpus)
        both = len(users_a & users_b)
        # A pair within the overlap is met from both ends, and nobody pairs with himself.
        return len(users_a) * len(users_b) - both * (both + 1) // 2


def _tallies(corpus: Corpus) -> dict[int, _Tally]:
    tallies: dict[int, _Tally] = {}
    for user, label, day in zip(corpus.users, corpus.labels, corpus.dates, strict=True):
        if (tally := tallies.get(user)) is None:
            tally = tallies[user] = _Tally(Counter(), {}, {})
        tally.counts[label] += 1
        tally.first[label] = min(day, tally.first.get(label, day))
        tally.last[label] = max(day, tally.last.get(label, day))
    return tallies


def _meets(tally: _Tally, clauses: tuple[Clause, ...]) -> bool:
    return all(_meets_one(tally, clause) for clause in clauses)


def _meets_one(tally: _Tally, clause: Clause) -> bool:
    match clause:
        case AnyOf(labels):
            return any(label in tally.counts for label in labels)
        case AtLeast(label, count):
            return tally.counts[label] >= count
        case Exactly(label, count):
            return tally.counts[label] == count
        case AllAfter(label, day):
            return label not in tally.first or tally.first[label] > day
        case AllBefore(label, day):
            return label not in tally.last or tally.last[label] < day
        case _:
            assert_never(clause)


def _words(clauses: tuple[Clause, ...]) -> str:
    return " and ".join(_words_of(clause) for clause in clauses)


def _words_of(clause: Clause) -> str:
    match clause:
        case AnyOf(labels):
            return f"at least one instance with the label {' or '.join(labels)}"
        case AtLeast(label, count):
            return f"at least {_COUNT_WORDS[count]} with the label {label}"
        case Exactly(label, count):
            return f"exactly {_COUNT_WORDS[count]} with the label {label}"
        case AllAfter(label, day):
            return f"all their instances with the label {label} dated after {_long_date(day)}"
        case AllBefore(label, day):
            return f"all their instances with the label {label} dated before {_long_date(day)}"
        case _:
            assert_never(clause)


PAIR_TASKS: dict[int, PairTask] = {
    task.number: task
    for task in (
        PairTask(1, (AnyOf((_NUMERIC, _LOCATION)),)),
        PairTask(2, (AnyOf((_ENTITY, _HUMAN)),)),
        PairTask(3, (AnyOf((_DESCRIPTION, _ABBREVIATION)),)),
        PairTask(4, (AnyOf((_HUMAN, _LOCATION)), AllAfter(_HUMAN, date(2023, 1, 6)))),
        PairTask(5, (AnyOf((_ENTITY, _NUMERIC)), AllBefore(_ENTITY, date(2023, 3, 15)))),
        PairTask(6, (AnyOf((_LOCATION, _ABBREVIATION)),)),
        PairTask(7, (AnyOf((_DESCRIPTION, _NUMERIC)), AllAfter(_NUMERIC, date(2023, 2, 1)))),
        PairTask(8, (AnyOf((_HUMAN, _DESCRIPTION)),)),
        PairTask(9, (AnyOf((_ENTITY, _LOCATION)), AllAfter(_LOCATION, date(2023, 4, 10)))),
        PairTask(10, (AnyOf((_NUMERIC, _ABBREVIATION)), AllBefore(_ABBREVIATION, date(2023, 5, 20)))),
        PairTask(11, (AtLeast(_ENTITY), AtLeast(_ABBREVIATION)), (Exactly(_ENTITY),)),
        PairTask(12, (AtLeast(_NUMERIC, 2),), (AtLeast(_LOCATION), AtLeast(_HUMAN))),
        PairTask(13, (Exactly(_DESCRIPTION),), (AtLeast(_ABBREVIATION), AtLeast(_ENTITY))),
        PairTask(14, (AtLeast(_HUMAN), AtLeast(_NUMERIC)), (Exactly(_LOCATION, 2),)),
        PairTask(15, (AtLeast(_ENTITY), AtLeast(_LOCATION), AtLeast(_ABBREVIATION)), (Exactly(_NUMERIC),)),
        PairTask(16, (AtLeast(_DESCRIPTION), AtLeast(_HUMAN)), (AtLeast(_ENTITY, 2), Exactly(_ABBREVIATION))),
        PairTask(17, (Exactly(_NUMERIC),), (AtLeast(_LOCATION), AtLeast(_DESCRIPTION))),
        PairTask(18, (AtLeast(_ABBREVIATION), Exactly(_HUMAN)), (AtLeast(_ENTITY), AtLeast(_NUMERIC))),
        PairTask(19, (AtLeast(_LOCATION, 2), AtLeast(_ENTITY)), (Exactly(_DESCRIPTION), Exactly(_ABBREVIATION))),
        PairTask(
            20, (AtLeast(_NUMERIC), AtLeast(_HUMAN)), (AtLeast(_LOCATION), AtLeast(_ENTITY), Exactly(_ABBREVIATION))
        ),
    )
}


def question(task: int, *, below: int | None = None) -> str:
    """The question for the root model. With `below`, it is only about users with a lower ID.

    Raises:
        InvalidInput: there is no such task.
    """
    only = "" if below is None else f"\nConsider only the users whose ID is below {below}, as if there were no others."
    return _QUESTION.format(condition=pair_task(task).condition, labels=", ".join(LABELS), only=only)


def pair_task(task: int) -> PairTask:
    """Raises InvalidInput if there is no such task."""
    if task not in PAIR_TASKS:
        raise InvalidInput(f"there is no pair task {task}; give a number from 1 to {len(PAIR_TASKS)}", code="demo.task")
    return PAIR_TASKS[task]


def score_f1(answer_text: str, gold: Set[tuple[int, int]], *, wrong_pairs_max: int = WRONG_PAIRS_MAX) -> float:
    """F1 of the pairs in an answer against the gold pairs, from 0.0 to 1.0 (both empty: 1.0).

    Reads every `(id1, id2)` in the text, wherever it stands; other text is ignored, a repeated pair counts once, and a
    pair with the higher ID first counts as the same pair. Memory is bounded by the gold and `wrong_pairs_max`, not by
    the answer: wrong pairs beyond that many are counted each time they come, which can only lower the score.
    """
    hits: set[tuple[int, int]] = set()
    wrong: set[tuple[int, int]] = set()
    wrong_uncounted = 0
    for match in _PAIR.finditer(answer_text):
        first, second = int(match[1]), int(match[2])
        pair = (first, second) if first < second else (second, first)
        if pair in gold:
            hits.add(pair)
        elif len(wrong) < wrong_pairs_max:
            wrong.add(pair)
        elif pair not in wrong:
            wrong_uncounted += 1
    answered = len(hits) + len(wrong) + wrong_uncounted
    return 2 * len(hits) / (answered + len(gold)) if answered + len(gold) else 1.0
