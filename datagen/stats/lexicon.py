"""The closed words of the rule-based finder: verbs with their forms, and what is no noun.

Chosen by us for questions and answers about medical images. What does *not* live here: the rules
(`verb_noun.py`).
"""

from collections.abc import Iterator


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


BE = frozenset({"be", "is", "are", "was", "were", "been", "being", "am"})
HAVE = frozenset({"have", "has", "had", "having"})
DO = frozenset({"do", "does", "did"})
MODALS = frozenset({"can", "could", "will", "would", "shall", "should", "may", "might", "must"})
AUXILIARIES = BE | HAVE | DO | MODALS

QUESTION_WORDS = _set("what which who whom whose where when why how whether")
PRONOUNS = _set(
    "i you he she it we they me him us them there this that these those one ones who which someone "
    "anyone something anything nothing everything both itself themselves"
)
DETERMINERS = _set(
    "a an the any some no this that these those each every all both several many few much most my "
    "your his her its our their another other such either neither more less two three four five "
    "six seven eight nine ten zero one first second third what which whose only same"
)
PREPOSITIONS = _set(
    "of in on at for from to with without by about into onto within between among through across "
    "around near over under above below behind beside along during after before towards toward "
    "against as per via upon like throughout inside outside than regarding concerning including "
    "despite beyond off out up down until since based due"
)
CONJUNCTIONS = _set(
    "and or but nor so if because although though while whereas unless that which who whom whose "
    "where when whether"
)
ADVERBS = _set(
    "not n't also then now here please just very too quite rather well always never often usually "
    "still already even perhaps maybe however therefore thus first second finally next briefly "
    "further together overall yes yeah no there most more less least additionally moreover "
    "respectively primarily mainly else instead about further"
)
NOUNS_LIKE_ADVERBS = _set("assembly anomaly supply family biopsy only early")
ADJECTIVES = _set(
    "able abnormal absent acute adjacent apparent available bad benign best better big black blue "
    "bright broad brown chronic clear close coarse common complete concise consistent current dark "
    "deep dense different diffuse due enlarged evident extensive fine firm focal free full good "
    "gray great green grey healthy hard heavy high important intact intense irregular large larger "
    "largest left likely little local long low main major malignant mild moderate necessary new "
    "normal numerous old orange overall particular pink possible present prominent purple rare red "
    "regular responsible right rough round secondary severe sharp short significant similar "
    "simple single slight small smaller smallest smooth soft solid specific strong sure thick thin "
    "true typical unclear unique unlikely unremarkable upper lower middle uniform useful various "
    "visible white whole wide yellow young brief inner outer anterior posterior inferior superior "
    "oval circular narrow dull vivid subtle detailed key notable noticeable relevant"
)
ADJECTIVE_ENDINGS = (
    *("ous", "able", "ible", "ical", "ful", "less", "intense", "dense", "echoic", "lateral"),
    *("lucent", "opaque", "shaped", "sized", "tinal", "ular", "ive"),
)

# Verbs that are as often nouns: verbs only where one must stand, or behind a noun.
AMBIGUOUS = _set(
    "aid arrest attack attempt bleed cause change choice contrast control count cover cut decrease "
    "defect display estimate favor focus form function guide help increase label limit line list "
    "look mark match mean measure name need note outline plan point process project question range "
    "rank rate report result return review rule score search shift show sign spread stage state "
    "study suffer suggest summary support survey test trace transfer treat use view work"
)

_REGULAR = (
    "accompany achieve add address affect affirm aid allow analyse analyze answer appear apply "
    "approach arrest ask assess assist associate assume attach attempt attribute balance belong "
    "block calculate call caption categorize cause change characterize check cite clarify "
    "classify close collect combine comment communicate compare compress compute concern "
    "conclude conduct confirm connect consider consist contain contrast contribute control "
    "convey correlate correspond count cover create damage decrease define delineate demonstrate "
    "denote depend depict derive describe design detect determine develop diagnose differ "
    "differentiate direct discuss display distinguish divide document elaborate elucidate "
    "emphasize enable enhance enlarge ensure estimate evaluate examine exclude exhibit expand "
    "expect explain explore express extend favor focus form function generate guide handle "
    "happen help highlight identify illustrate impact imply impose improve include increase "
    "indicate infer infiltrate inform inspect interpret investigate invade involve isolate join "
    "judge justify label lack limit link list localize locate look manage manifest mark match "
    "measure mention monitor move name narrate need note notice observe obtain occur offer "
    "originate outline perform persist place plan play point portray predict present prevent "
    "process produce project prompt propose protect prove provide question raise range rank rate "
    "reach realize receive recognize recommend reconstruct record reduce refer reflect relate "
    "remain remove render replace report represent require resemble resolve respond result "
    "retain return reveal review rule sample score search seem segment separate serve share "
    "shift signify speculate stage stain start state stop strengthen study suffer suggest "
    "summarize supply support surround survey talk target test trace transfer treat turn undergo "
    "underline use utilize verify view visualize walk want warrant work clear displace rotate "
    "sketch"
)
_DOUBLING = {"refer", "occur", "stop", "prefer", "permit", "admit", "infer", "plan", "transfer"}
_IRREGULAR = (
    "arise arose arisen|become became become|begin began begun|bleed bled bled|"
    "bring brought brought|build built built|choose chose chosen|come came come|cut cut cut|"
    "deal dealt dealt|draw drew drawn|fall fell fallen|feel felt felt|find found found|"
    "get got got|give gave given|go went gone|grow grew grown|hold held held|keep kept kept|"
    "know knew known|lead led led|leave left left|let let let|lie lay lain|lose lost lost|"
    "make made made|mean meant meant|overlie overlay overlain|put put put|read read read|"
    "rise rose risen|run ran run|say said said|see saw seen|send sent sent|set set set|"
    "show showed shown|speak spoke spoken|spread spread spread|stand stood stood|take took taken|"
    "tell told told|think thought thought|undergo underwent undergone|"
    "understand understood understood|write wrote written"
)
_NO_FORMS = {"left", "lay", "rose", "clear", "close", "set"}
"""Forms that are hardly ever verbs in these texts."""

LINKING = frozenset({"appear", "become", "lie", "look", "remain", "seem"})

_SINGULARS = {
    "bronchi": "bronchus",
    "children": "child",
    "criteria": "criterion",
    "data": "data",
    "diagnoses": "diagnosis",
    "feet": "foot",
    "foci": "focus",
    "ganglia": "ganglion",
    "hypotheses": "hypothesis",
    "indices": "index",
    "lens": "lens",
    "masses": "mass",
    "men": "man",
    "metastases": "metastasis",
    "mitochondria": "mitochondrion",
    "mitoses": "mitosis",
    "nuclei": "nucleus",
    "people": "person",
    "pons": "pons",
    "prostheses": "prosthesis",
    "series": "series",
    "species": "species",
    "stenoses": "stenosis",
    "thrombi": "thrombus",
    "thromboses": "thrombosis",
    "vertebrae": "vertebra",
    "viscera": "viscera",
    "women": "woman",
}


def verb_forms() -> dict[str, tuple[str, frozenset[str]]]:
    """Return each form of each verb with its lemma and kinds: `base s past participle ing`."""
    found: dict[str, tuple[str, set[str]]] = {}
    for lemma, form, kind in _every_form():
        if form in _NO_FORMS:
            continue
        known = found.setdefault(form, (lemma, set()))
        if known[0] == lemma:
            known[1].add(kind)
    return {form: (lemma, frozenset(kinds)) for form, (lemma, kinds) in found.items()}


def singular(noun: str) -> str:
    """Return the singular of a noun, by the usual endings."""
    if noun in _SINGULARS:
        return _SINGULARS[noun]
    if len(noun) < 4 or noun.endswith(("ss", "us", "is", "'s", "x-rays")):
        return "x-ray" if noun == "x-rays" else noun.removesuffix("'s")
    if noun.endswith("ies"):
        return f"{noun[:-3]}y"
    if noun.endswith(("sses", "xes", "ches", "shes", "zes")):
        return noun[:-2]
    return noun.removesuffix("s")


def _every_form() -> Iterator[tuple[str, str, str]]:
    for verb in _IRREGULAR.split("|"):
        base, past, participle = verb.split()
        yield from ((base, base, "base"), (base, past, "past"), (base, participle, "participle"))
        yield base, _with_s(base), "s"
        yield base, _with_ing(base), "ing"
    for base in _REGULAR.split():
        yield base, base, "base"
        yield base, _with_s(base), "s"
        yield base, _with_ing(base), "ing"
        if base != "undergo":
            yield base, _with_ed(base), "past"
            yield base, _with_ed(base), "participle"


def _with_s(base: str) -> str:
    if base.endswith(("s", "x", "ch", "sh", "o")):
        return f"{base}es"
    return f"{base[:-1]}ies" if _ends_in_consonant_y(base) else f"{base}s"


def _with_ing(base: str) -> str:
    if base.endswith("ie"):
        return f"{base[:-2]}ying"
    if base in _DOUBLING or base in {"cut", "let", "put", "run", "set", "get", "begin"}:
        return f"{base}{base[-1]}ing"
    if base.endswith("e") and not base.endswith("ee"):
        return f"{base[:-1]}ing"
    return f"{base}ing"


def _with_ed(base: str) -> str:
    if base in _DOUBLING:
        return f"{base}{base[-1]}ed"
    if base.endswith("e"):
        return f"{base}d"
    return f"{base[:-1]}ied" if _ends_in_consonant_y(base) else f"{base}ed"


def _ends_in_consonant_y(base: str) -> bool:
    return base.endswith("y") and base[-2] not in "aeiou"
