"""An engine whose rounds a test takes by hand, on a clock that only the test's stages move."""

import pyengine
from pyengine.engine import driver
from pyengine.engine.stages import Stages

SIZES = {"sd1": {"height": 32, "width": 32}}


class Manual:
    """steps: the pictures of every evaluation, as (model, seeds). cost: seconds of an evaluation of
    n pictures of a model; faults: called with them before, to raise. encoded, decoded: models.
    """

    def __init__(self, pipes, names, how, monkeypatch):
        self.now, self.steps, self.encoded, self.decoded = 100.0, [], [], []
        self.cost = lambda model, n: 0.01
        self.faults = lambda model, pictures: None
        self.names = {pipes[name].source: name for name in names}
        real = driver.step, Stages.prepare, Stages.finish

        def step(pipe, pictures):
            model = self.names[pipe.source]
            self.faults(model, pictures)
            used = real[0](pipe, pictures)
            self.now += self.cost(model, len(pictures))
            self.steps.append((model, [picture.seed for picture in pictures]))
            return used

        def prepare(stages, previews):
            self.encoded.append(stages.request.seeds[0])
            self.now += 0.002
            real[1](stages, previews)

        def finish(stages):
            self.decoded.append(stages.request.seeds[0])
            self.now += 0.002
            return real[2](stages)

        monkeypatch.setattr(driver, "step", step)
        monkeypatch.setattr(Stages, "prepare", prepare)
        monkeypatch.setattr(Stages, "finish", finish)
        models = [pipes[name] for name in names]
        self.pipes = pipes
        self.engine = pyengine.Engine(*models, _clock=lambda: self.now, _thread=False, **how)
        self.driver = self.engine._driver

    def submit(self, name="sd1", seed=0, steps=3, **call):
        if name in ("sd1", "emoji", "amused"):
            call["num_inference_steps"] = steps
        given = {"prompt": "a cat", "seed": seed, **SIZES.get(name, {}), **call}
        return self.engine.submit(self.pipes[name], **given)

    def turn(self, count=1):
        for _ in range(count):
            self.driver.turn()

    def finish(self):
        """Rounds until nothing is left."""
        for _ in range(10_000):
            if not (self.driver.waiting or self.driver.running):
                return
            self.turn()
        raise AssertionError("jobs that never end")

    def learn(self, name="sd1", count=1):
        """Jobs of a model have been there, so that costs are known."""
        jobs = [self.submit(name, seed=1000 + k) for k in range(count)]
        self.finish()
        for job in jobs:
            job.result(0)
        self.steps.clear(), self.encoded.clear(), self.decoded.clear()
