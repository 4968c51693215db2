"""What to say of names that people import and that are not here."""

from collections.abc import Iterable

from .weights.text import did_you_mean, nearest

#: What a name may hold, and what that is.
_KINDS = {
    "ControlNetModel": "pyengine.models has ControlNets",
    "ControlNetUnionModel": "pyengine.models has ControlNets",
    "T2IAdapter": "pyengine.models has T2I-Adapters",
    "ControlNet": "ControlNets are here beside Stable Diffusion 1.x, 2.x and XL; diffusers has"
    " others",
    "IPAdapter": "pipe.load_ip_adapter(...) loads IP-Adapters",
    "Lora": "pipe.load_lora(...) loads LoRAs",
    "Video": "no video models are here; diffusers has them",
    "Audio": "no audio models are here; diffusers has them",
}


def explain(name: str, names: Iterable[str]) -> str:
    """A sentence that says what there is in place of `name`."""
    names = list(names)
    for part, what in _KINDS.items():
        if part.casefold() in name.casefold():
            return what
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
