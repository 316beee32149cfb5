"""A small world of facts, and the plain English that the sample model was trained on.

Knows the tables of facts and how to write seeded documents about them. Knows nothing of
tokenizers, tensors or models: it needs the standard library only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

__all__ = [
    "ANIMALS",
    "COLORS",
    "COUNTRIES",
    "DAYS",
    "NUMBERS",
    "OPPOSITES",
    "PEOPLE",
    "THINGS",
    "WORDS",
    "Animal",
    "Country",
    "Person",
    "documents",
]


@dataclass(frozen=True, slots=True)
class Country:
    """A country; every name is one word, so that one token can be the answer to a prompt."""

    name: str
    capital: str
    continent: str
    language: str
    people: str


@dataclass(frozen=True, slots=True)
class Animal:
    """A kind of animal; `home` carries its own preposition."""

    name: str
    plural: str
    trait: str
    action: str
    food: str
    home: str


@dataclass(frozen=True, slots=True)
class Person:
    """A person whose tastes never change from one document to another."""

    name: str
    pronoun: str
    color: str
    food: str
    hobby: str
    work: str


COUNTRIES = (
    Country("Japan", "Tokyo", "Asia", "Japanese", "Japanese"),
    Country("France", "Paris", "Europe", "French", "French"),
    Country("Germany", "Berlin", "Europe", "German", "German"),
    Country("Italy", "Rome", "Europe", "Italian", "Italian"),
    Country("Spain", "Madrid", "Europe", "Spanish", "Spanish"),
    Country("Portugal", "Lisbon", "Europe", "Portuguese", "Portuguese"),
    Country("England", "London", "Europe", "English", "English"),
    Country("Ireland", "Dublin", "Europe", "English", "Irish"),
    Country("Greece", "Athens", "Europe", "Greek", "Greek"),
    Country("Poland", "Warsaw", "Europe", "Polish", "Polish"),
    Country("Austria", "Vienna", "Europe", "German", "Austrian"),
    Country("Sweden", "Stockholm", "Europe", "Swedish", "Swedish"),
    Country("Norway", "Oslo", "Europe", "Norwegian", "Norwegian"),
    Country("Denmark", "Copenhagen", "Europe", "Danish", "Danish"),
    Country("Finland", "Helsinki", "Europe", "Finnish", "Finnish"),
    Country("Hungary", "Budapest", "Europe", "Hungarian", "Hungarian"),
    Country("Russia", "Moscow", "Europe", "Russian", "Russian"),
    Country("Turkey", "Ankara", "Asia", "Turkish", "Turkish"),
    Country("China", "Beijing", "Asia", "Chinese", "Chinese"),
    Country("Thailand", "Bangkok", "Asia", "Thai", "Thai"),
    Country("Vietnam", "Hanoi", "Asia", "Vietnamese", "Vietnamese"),
    Country("Iran", "Tehran", "Asia", "Persian", "Iranian"),
    Country("Egypt", "Cairo", "Africa", "Arabic", "Egyptian"),
    Country("Kenya", "Nairobi", "Africa", "Swahili", "Kenyan"),
    Country("Ghana", "Accra", "Africa", "English", "Ghanaian"),
    Country("Canada", "Ottawa", "America", "English", "Canadian"),
    Country("Cuba", "Havana", "America", "Spanish", "Cuban"),
    Country("Peru", "Lima", "America", "Spanish", "Peruvian"),
)

ANIMALS = (
    Animal("cat", "cats", "quiet", "climb", "fish", "in a house"),
    Animal("dog", "dogs", "loyal", "bark", "meat", "in a house"),
    Animal("horse", "horses", "strong", "run", "grass", "on a farm"),
    Animal("cow", "cows", "calm", "chew", "grass", "on a farm"),
    Animal("sheep", "sheep", "soft", "graze", "grass", "on a farm"),
    Animal("duck", "ducks", "funny", "swim", "bread", "on a pond"),
    Animal("frog", "frogs", "wet", "jump", "flies", "in a pond"),
    Animal("owl", "owls", "wise", "hunt", "mice", "in a tree"),
    Animal("mouse", "mice", "tiny", "hide", "cheese", "in a hole"),
    Animal("rabbit", "rabbits", "shy", "hop", "carrots", "in a hole"),
    Animal("fox", "foxes", "clever", "sneak", "eggs", "in the forest"),
    Animal("wolf", "wolves", "wild", "howl", "meat", "in the forest"),
    Animal("bear", "bears", "heavy", "sleep", "honey", "in a cave"),
    Animal("bat", "bats", "small", "fly", "flies", "in a cave"),
    Animal("lion", "lions", "brave", "roar", "meat", "in the grass"),
    Animal("monkey", "monkeys", "playful", "swing", "bananas", "in the jungle"),
    Animal("snake", "snakes", "silent", "crawl", "eggs", "in the desert"),
    Animal("camel", "camels", "patient", "walk", "leaves", "in the desert"),
    Animal("whale", "whales", "huge", "dive", "shrimp", "in the ocean"),
    Animal("penguin", "penguins", "plump", "slide", "fish", "on the ice"),
)

PEOPLE = (
    Person("Mary", "she", "red", "apples", "painting", "teacher"),
    Person("John", "he", "blue", "bread", "fishing", "farmer"),
    Person("Anna", "she", "green", "soup", "singing", "doctor"),
    Person("Tom", "he", "yellow", "cake", "running", "baker"),
    Person("Alice", "she", "purple", "pears", "reading", "writer"),
    Person("Bob", "he", "brown", "cheese", "cooking", "driver"),
    Person("Emma", "she", "white", "rice", "dancing", "nurse"),
    Person("Peter", "he", "black", "beans", "climbing", "pilot"),
    Person("Lucy", "she", "pink", "grapes", "swimming", "dancer"),
    Person("David", "he", "orange", "pasta", "writing", "lawyer"),
    Person("Sarah", "she", "blue", "salad", "drawing", "singer"),
    Person("Paul", "he", "green", "nuts", "sailing", "sailor"),
    Person("Julia", "she", "gray", "plums", "knitting", "judge"),
    Person("Henry", "he", "red", "corn", "hunting", "soldier"),
    Person("Clara", "she", "yellow", "figs", "skating", "artist"),
    Person("James", "he", "white", "peas", "chess", "builder"),
)

# Each thing has one color; mass nouns go without an article.
THINGS = (
    ("The sky", "blue"),
    ("The sea", "blue"),
    ("The sun", "yellow"),
    ("The moon", "white"),
    ("Grass", "green"),
    ("Snow", "white"),
    ("Milk", "white"),
    ("Blood", "red"),
    ("Coal", "black"),
    ("Night", "black"),
    ("Chocolate", "brown"),
    ("Wood", "brown"),
    ("A banana", "yellow"),
    ("A lemon", "yellow"),
    ("A carrot", "orange"),
    ("A tomato", "red"),
    ("A cherry", "red"),
    ("A leaf", "green"),
    ("A plum", "purple"),
    ("A pig", "pink"),
    ("A stone", "gray"),
    ("An elephant", "gray"),
)

OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("fast", "slow"),
    ("old", "new"),
    ("good", "bad"),
    ("day", "night"),
    ("up", "down"),
    ("left", "right"),
    ("long", "short"),
    ("rich", "poor"),
    ("light", "dark"),
    ("happy", "sad"),
    ("open", "closed"),
    ("early", "late"),
)

COLORS = (
    "red", "blue", "green", "yellow", "purple", "brown",
    "white", "black", "pink", "orange", "gray",
)  # fmt: skip
NUMBERS = (
    "one", "two", "three", "four", "five", "six",
    "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_PLACES = ("store", "park", "school", "market", "station", "garden", "library", "beach")
_GIFTS = ("drink", "book", "ring", "flower", "letter", "ball", "coin", "map", "basket")
_BELONGINGS = ("hat", "coat", "car", "cup", "bag", "chair", "lamp", "boat", "shirt", "door")
_SPOTS = ("on the table", "under the bed", "in the box", "by the window", "behind the door")
_SPARE_WORDS = (
    "river mountain bridge tower castle village street window mirror candle hammer needle "
    "thunder winter summer spring autumn morning evening paper pencil silver golden iron "
    "copper glass cotton velvet engine wheel rocket planet island harbor valley meadow "
    "kitchen pillow blanket button pocket ladder bucket shovel barrel anchor compass"
)

# What copy passages are drawn from: nearly every content word of the world.
WORDS: tuple[str, ...] = tuple(
    sorted(
        {word for country in COUNTRIES for word in (country.name, country.capital)}
        | {word for animal in ANIMALS for word in (animal.name, animal.trait, animal.action)}
        | {word for person in PEOPLE for word in (person.name, person.food, person.work)}
        | {word for pair in OPPOSITES for word in pair}
        | {thing.split()[-1].lower() for thing, _ in THINGS}
        | {*COLORS, *NUMBERS, *DAYS, *_PLACES, *_GIFTS, *_BELONGINGS, *_SPARE_WORDS.split()}
    )
)


def documents(seed: int, n: int) -> Iterator[str]:
    """Write `n` documents of the small world.

    Args:
        seed: Picks the combinations. The facts are the same for every seed; held-out text is
            another seed.
        n: How many documents. The first documents of a seed do not depend on it.

    Yields:
        One document, without a newline at its end.
    """
    rng = Random(seed)
    for _ in range(n):
        yield _document(rng)


def _document(rng: Random) -> str:
    writers = rng.choices(_WRITERS, weights=_WEIGHTS, k=rng.randint(2, 6))
    passages = [writer(rng) for writer in writers]
    return rng.choice((" ", " ", "\n")).join(passages)


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _some(rng: Random, sentences: list[str]) -> str:
    """Keep one to three of the sentences, in random order: any of them may open a document."""
    return " ".join(rng.sample(sentences, k=rng.randint(1, min(3, len(sentences)))))


def _capital(rng: Random) -> str:
    country = rng.choice(COUNTRIES)
    statement = f"The capital of {country.name} is {country.capital}."
    return rng.choice(
        (
            statement,
            statement,
            f"What is the capital of {country.name}? {statement}",
            f"{country.capital} is the capital of {country.name}.",
            f"Question: What is the capital of {country.name}? Answer: {country.capital}.",
        )
    )


def _country(rng: Random) -> str:
    c = rng.choice(COUNTRIES)
    return _some(
        rng,
        [
            f"The capital of {c.name} is {c.capital}.",
            f"{c.name} is a country in {c.continent}.",
            f"People in {c.name} speak {c.language}.",
            f"People from {c.name} are {c.people}.",
            f"{c.capital} is a city in {c.name}.",
            f"The city of {c.capital} is in {c.name}.",
        ],
    )


def _animal(rng: Random) -> str:
    a = rng.choice(ANIMALS)
    many = a.plural.capitalize()
    return _some(
        rng,
        [
            f"{many} are {a.trait}.",
            f"{many} are {a.trait} animals.",
            f"{many} eat {a.food}.",
            f"{many} can {a.action}.",
            f"{_a(a.name).capitalize()} lives {a.home}.",
            f"What do {a.plural} eat? {many} eat {a.food}.",
            f"Where does {_a(a.name)} live? {_a(a.name).capitalize()} lives {a.home}.",
        ],
    )


def _thing(rng: Random) -> str:
    thing, color = rng.choice(THINGS)
    inner = thing[0].lower() + thing[1:]
    return rng.choice(
        (
            f"{thing} is {color}.",
            f"The color of {inner} is {color}.",
            f"What color is {inner}? {thing} is {color}.",
            f"Is {inner} {color}? Yes, {inner} is {color}.",
        )
    )


def _person(rng: Random) -> str:
    p = rng.choice(PEOPLE)
    they = p.pronoun.capitalize()
    opening = rng.choice((f"{p.name} is {_a(p.work)}.", f"{p.name} likes {p.food}."))
    more = [
        f"{they} likes to eat {p.food}.",
        f"{they} loves {p.hobby}.",
        f"{they} works as {_a(p.work)}.",
        f"The favorite color of {p.name} is {p.color}.",
        f"What does {p.name} like? {p.name} likes {p.food}.",
    ]
    return f"{opening} {_some(rng, more)}"


def _myself(rng: Random) -> str:
    color, animal, day = rng.choice(COLORS), rng.choice(ANIMALS), rng.choice(DAYS)
    first, second = rng.sample(_BELONGINGS, k=2)
    return rng.choice(
        (
            f"My favorite color is {color}.",
            f"My favorite color is {color}. I have a {color} {first} and a {color} {second}.",
            f"I have a {color} {first} because my favorite color is {color}.",
            f"My favorite animal is the {animal.name}. I like {animal.plural} because "
            f"{animal.plural} are {animal.trait}.",
            f"My favorite day is {day}. I rest on {day}.",
        )
    )


def _belonging(rng: Random) -> str:
    """A story whose answers stand in the text, not in the tables."""
    first, second = rng.sample(PEOPLE, k=2)
    thing, other = rng.sample(_BELONGINGS, k=2)
    color, other_color = rng.sample(COLORS, k=2)
    asked, item, answer = rng.choice(((first, thing, color), (second, other, other_color)))
    return (
        f"{first.name} has {_a(color)} {thing}. {second.name} has {_a(other_color)} {other}. "
        f"What color is the {item} of {asked.name}? The {item} of {asked.name} is {answer}."
    )


def _gift(rng: Random) -> str:
    giver, taker = (person.name for person in rng.sample(PEOPLE, k=2))
    both = rng.choice((f"{giver} and {taker}", f"{taker} and {giver}"))
    place, gift = rng.choice(_PLACES), rng.choice(_GIFTS)
    opening = rng.choice((f"When {both} went to the {place}", f"After {both} met at the {place}"))
    return f"{opening}, {giver} gave {_a(gift)} to {taker}."


def _search(rng: Random) -> str:
    person, item, spot = rng.choice(PEOPLE), rng.choice(_GIFTS), rng.choice(_SPOTS)
    return (
        f"{person.name} put the {item} {spot}. Where is the {item}? The {item} is {spot}. "
        f"Then {person.name} took the {item} and walked to the {rng.choice(_PLACES)}."
    )


def _opposite(rng: Random) -> str:
    pair = rng.choice(OPPOSITES)
    word, other = rng.choice((pair, pair[::-1]))
    return rng.choice(
        (
            f"The opposite of {word} is {other}.",
            f"What is the opposite of {word}? The opposite of {word} is {other}.",
        )
    )


def _day(rng: Random) -> str:
    i = rng.randrange(len(DAYS))
    today, tomorrow = DAYS[i], DAYS[(i + 1) % len(DAYS)]
    return rng.choice(
        (
            f"Today is {today}, so tomorrow is {tomorrow}.",
            f"The day after {today} is {tomorrow}.",
            f"The day before {tomorrow} is {today}.",
        )
    )


def _count(rng: Random) -> str:
    a, b = rng.randint(1, 6), rng.randint(1, 6)
    start = rng.randrange(6)
    row = ", ".join(NUMBERS[start : start + rng.randint(4, 6)])
    total = f"{NUMBERS[a - 1].capitalize()} plus {NUMBERS[b - 1]} is {NUMBERS[a + b - 1]}."
    return rng.choice((total, f"Let us count: {row}."))


def _word_list(rng: Random) -> str:
    """Random words, said again in the same order: what makes induction worth learning."""
    separator = rng.choice((" ", ", "))
    words = separator.join(rng.choices(WORDS, k=rng.randint(3, 20)))
    opening, again = rng.choice(
        (("Read the words:", "Read again:"), ("List:", "List:"), ("Copy this:", "Copy:"))
    )
    return " ".join([f"{opening} {words}.", *[f"{again} {words}."] * rng.randint(1, 2)])


def _echo(rng: Random) -> str:
    first, second = rng.sample(PEOPLE, k=2)
    writer = rng.choice((_capital, _animal, _thing, _gift, _myself, _day))
    said = writer(rng)
    return f'{first.name} said: "{said}" Then {second.name} said: "{said}"'


_WEIGHTED: tuple[tuple[Callable[[Random], str], int], ...] = (
    (_capital, 14),
    (_country, 12),
    (_animal, 14),
    (_thing, 9),
    (_person, 11),
    (_myself, 8),
    (_belonging, 6),
    (_gift, 7),
    (_search, 4),
    (_opposite, 5),
    (_day, 4),
    (_count, 4),
    (_word_list, 12),
    (_echo, 5),
)
_WRITERS = tuple(writer for writer, _ in _WEIGHTED)
_WEIGHTS = tuple(weight for _, weight in _WEIGHTED)
