"""Steps of a scaler as plain dictionaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ghcoord.units import format_duration

if TYPE_CHECKING:
    from ghcoord.coord.scaling.autoscaler import Step
    from ghcoord.coord.scaling.decision import Decision, Policy
    from ghcoord.faces.views import View


def step_view(name: str, workflow: str, policy: Policy, step: Step, *, dry_run: bool = False) -> View:
    """A step; ``leading`` is false where another scales, named by ``leader``, and then nothing was decided."""
    decision = step.decision
    return {
        "name": name,
        "workflow": workflow,
        "leading": decision is not None,
        "leader": step.leader.id if step.leader is not None else None,
        "minimum": policy.minimum,
        "maximum": policy.maximum,
        "demand": decision.demand if decision is not None else None,
        "busy": decision.busy if decision is not None else None,
        "live": decision.live if decision is not None else None,
        "pending": decision.pending if decision is not None else None,
        "target": decision.target if decision is not None else None,
        "dispatched": _dispatched(decision, step) if decision is not None else [],
        "cancelled": list(step.cancelled),
        "drained": list(decision.drain) if decision is not None else [],
        "waits": decision.waits if decision is not None else "",
        "problem": step.problem,
        "dry_run": dry_run,
    }


def _dispatched(decision: Decision, step: Step) -> list[View]:
    """What was asked for, and what became of it: ``accepted``, ``unknown``, ``unsent``, or ``planned``."""
    shown = []
    for worker in decision.start:
        told = (step.accepted or {}).get(worker)
        if step.accepted is None:
            state = "planned"
        elif told is not None:
            state = "accepted"
        else:
            state = "unknown" if worker in step.unknown else "unsent"
        run_id, url = (told.run_id, told.url) if told is not None else (None, "")
        shown.append({"worker": worker, "state": state, "run_id": run_id, "url": url})
    return shown


def step_text(view: View) -> str:
    """The same on one line, for people."""
    if not view["leading"]:
        return f"{view['leader']} scales: standing by"
    parts = [
        f"{view['demand']} tasks wait, {view['busy']} run",
        f"{view['live']} of {view['maximum']} runs live, {view['pending']} to come, {view['target']} wanted",
    ]
    states = [one["state"] for one in view["dispatched"]]
    words = {"planned": "would be started", "accepted": "started", "unknown": "maybe started", "unsent": "not started"}
    parts += [f"{states.count(state)} {word}" for state, word in words.items() if state in states]
    draining = "would be told to end" if view["dry_run"] else "told to end"
    parts += [f"{len(view['drained'])} {draining}"] if view["drained"] else []
    parts += [f"{len(view['cancelled'])} cancelled"] if view["cancelled"] else []
    parts += [view["waits"]] if view["waits"] else []
    return "; ".join(parts)


def policy_text(policy: Policy) -> str:
    """What a scaler keeps to, for people."""
    return (
        f"{policy.minimum} to {policy.maximum} runs, one for {policy.per_run} tasks, "
        f"{format_duration(policy.cool_down)} apart, at most {policy.budget} an hour"
    )
