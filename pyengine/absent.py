"""What to say of names that people import and that are not here."""

from collections.abc import Iterable

from .weights.text import did_you_mean, nearest

#: What a name may hold, and what that is.
_KINDS = {
    "ControlNet": "ControlNets are not here yet",
    "IPAdapter": "IP-Adapters are not here yet",
    "T2IAdapter": "T2I-Adapters are not here yet",
    "Lora": "LoRAs are not here yet",
    "Video": "no video models are here",
    "Audio": "no audio models are here",
}


def explain(name: str, names: Iterable[str]) -> str:
    """A sentence that says what there is in place of `name`."""
    names = list(names)
    for part, what in _KINDS.items():
        if part.casefold() in name.casefold():
            return f"{what}; diffusers has them"
    close = did_you_mean(name, names).removeprefix("; ")
    for ending, kind in (("Pipeline", "pipelines"), ("Scheduler", "schedulers")):
        if name.endswith(ending):
            # Long endings in common make all of a kind alike: the beginnings have to be.
            stems = {n.removesuffix(ending): n for n in names if n.endswith(ending)}
            found = nearest(name.removesuffix(ending), stems)
            near = "" if found is None else f"did you mean {stems[found]}? "
            listed = ", ".join(sorted(stems.values()))
            return f"{near}the {kind} are {listed}; diffusers has others"
    return close or "see dir(pyengine)"
