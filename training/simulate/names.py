"""Names of films and people, put together from short word lists."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def _words(text: str) -> list[str]:
    return text.split()


_FIRST = _words("""
Ada Alba Amir Anders Anika Aria Ayo Bela Bruno Carla Cem Chen Clara Dario Devi Edda Elias Emre Esra Fadi Femi
Finn Freya Gala Hana Hugo Ida Ines Ivo Jana Jonas Juno Kai Kira Lars Lea Levi Lina Luca Mara Mateo Maya Milo
Mina Nadia Nils Nora Omar Otto Pia Rafa Rhea Rosa Sami Sara Sven Tariq Uma Vera Yara Yuki Zoe
""")
_LAST = _words("""
Abbott Adeyemi Albrecht Almeida Andersson Arslan Baker Banerjee Barros Becker Bianchi Bonnet Carvalho Castillo
Choi Cohen Cooper Costa Dalton Demir Diaz Dubois Eklund Farouk Ferrari Fischer Fontaine Fujita Garcia Ghosh
Gomez Greco Haas Hansen Hayashi Herrera Hoffmann Ito Jansen Kaya Keller Khan Kimura Kowalski Kumar Lambert
Larsen Laurent Lehmann Lopez Marino Martins Mehta Mensah Meyer Moreau Morgan Mori Nakamura Navarro Novak
Okafor Oliveira Ortega Pereira Petit Popov Ramos Rao Reyes Ricci Rossi Roy Sato Schulz Sharma Silva Singh Soto
Suzuki Tanaka Torres Varga Vogel Wagner Weber Werner Wolf Yamada Young Zhang Ziegler
""")
_ADJECTIVES = _words("""
Amber Ancient Bitter Blind Borrowed Broken Burning Careless Crimson Crooked Distant Electric Empty Endless
Fallen False Final First Forgotten Frozen Gentle Golden Hidden Hollow Honest Iron Last Little Lonely Long Lost
Midnight Narrow Northern Open Paper Patient Pale Quiet Reckless Restless Salt Scarlet Second Secret Silent
Silver Slow Southern Stolen Strange Sudden Tender Thirteenth Unfinished Velvet Wandering White Wild Winter
""")
_NOUNS = _words("""
Affair Agent Answer Archive Bridge Brother Captain Carnival Choir City Coast Company Cousin Crossing Dance
Daughter Detective Door Dream Engine Evening Express Farewell Fire Forest Frontier Game Garden Guest Harbour
Heart Highway Horizon House Island Journey Kingdom Lake Letter Lighthouse Machine Map Market Mirror Moon
Mountain Neighbour Night Ocean Orchard Promise Queen Rain River Road Room Season Shadow Signal Sister Song
Station Stranger Summer Teacher Theatre Thief Tide Town Valley Voyage Weather Window Witness
""")
_CITIES = _words("""
Lisbon Osaka Leeds Bremen Lyon Recife Jaipur Turin Austin Quebec Cadiz Kyoto Hamburg Nice Bath Salvador Pune
Memphis Dundee Gdansk
""")

MOST_PEOPLE = len(_FIRST) * len(_LAST) * 26


def people_names(rng: np.random.Generator, count: int) -> pa.Array:
    """`count` distinct names, at most `MOST_PEOPLE`."""
    codes = rng.choice(MOST_PEOPLE, size=count, replace=False)
    initials = [chr(ord("A") + letter) + "." for letter in range(26)]
    first, rest = np.divmod(codes, len(_LAST) * 26)
    last, initial = np.divmod(rest, 26)
    return _join(" ", _pick(_FIRST, first), _pick(initials, initial), _pick(_LAST, last))


def film_titles(rng: np.random.Generator, count: int) -> pa.Array:
    """`count` titles; in a large catalogue some films share one, as they do in life."""
    adjective = _pick(_ADJECTIVES, rng.integers(len(_ADJECTIVES), size=count))
    noun = _pick(_NOUNS, rng.integers(len(_NOUNS), size=count))
    city = _pick(_CITIES, rng.integers(len(_CITIES), size=count))
    form = rng.random(count)
    plain = _join(" ", adjective, noun)
    with_article = _join(" ", _constant("The", count), plain)
    with_city = _join(" ", plain, _constant("of", count), city)
    short = pc.if_else(pa.array(form < 0.8), with_article, plain)
    return pc.if_else(pa.array(form < 0.35), with_city, short)


def sequel_titles(titles: pa.Array, leader: np.ndarray, part: np.ndarray, copy: np.ndarray) -> pa.Array:
    """The titles with those of sequels and other editions taken from their franchise's first film.

    `leader` int[N] is the row of the first film (-1: a film of its own), `part` int[N] the number in the
    franchise, `copy` bool[N] whether a film is another edition of the first one.
    """
    own = leader < 0
    base = titles.take(pa.array(np.where(own, np.arange(len(leader)), leader)))
    numbered = _join(" ", base, pa.array(part).cast(pa.string()))
    edition = _join(": ", base, _constant("Extended Edition", len(leader)))
    return pc.if_else(pa.array(own), titles, pc.if_else(pa.array(copy), edition, numbered))


def _pick(words: list[str], codes: np.ndarray) -> pa.Array:
    return pa.array(words).take(pa.array(codes))


def _constant(word: str, count: int) -> pa.Array:
    return pa.repeat(word, count)


def _join(separator: str, *parts: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(*parts, separator)
