"""Page Origin, live: a small network is trained in the worker and its curves are drawn while it runs."""

from __future__ import annotations

import statistics
import time

import pandas as pd
import streamlit as st

from app.ui import asking, cached, parts
from app.ui import origin_cached as reads
from app.ui.links import integer, linked
from moyu_core.errors import MoyuError
from moyu_core.figures import origin as figures
from moyu_core.figures.text import number, percent
from moyu_core.jobs import Job
from moyu_core.queries import origin
from moyu_core.store import Run
from moyu_core.studies.origin_requests import LIVE_SECONDS, MAX_LIVE_SEED, WIDTHS, LiveRequest
from moyu_core.worker import workers_alive

MEASURES = {
    "zero_share": "exact zeros (share)",
    "effective_neurons": "effective neurons",
    "cett_density": "density at CETT 0.2",
    "held_out_loss": "held-out loss (nats a character)",
}
MEANINGS = {
    "zero_share": "Share of the hidden layer's activations that are exactly 0. GELU's few come from float32, which rounds GELU of "
    "a very negative number to 0.",
    "effective_neurons": "How many neurons share the work; the gated layer has 2/3 of the neurons.",
    "cett_density": "Share of neurons needed so that leaving out the rest changes the logits by 20 %.",
    "held_out_loss": "What the network has learned meanwhile.",
}
ACTIVATIONS = ("relu", "gelu", "swiglu")


def draw() -> None:
    """Draw the part."""
    st.markdown("The network of the theorem, f = V a, trained now on the next character of English text: twelve characters, one "
                f"hidden layer, no norm, Adam without weight decay. It ends by itself after {LIVE_SECONDS} s at the latest, with "
                "the curves it has by then.")
    _watch(_request())


def _request() -> LiveRequest:
    left, middle, right = st.columns([2, 3, 1])
    with left:
        activation = linked("live_activation", "relu", lambda: st.segmented_control(
            "Activation", list(ACTIVATIONS), key="live_activation", required=True, format_func=figures.NAMES.__getitem__),
            options=list(ACTIVATIONS))
    with middle:
        width = linked("live_width", 384, lambda: st.select_slider(
            "Width F", list(WIDTHS), key="live_width",
            help="Hidden neurons; the gated layer has 2/3 of them, for equal numbers of weights."),
            options=list(WIDTHS), decode=int)
    with right:
        seed = linked("live_seed", 0, lambda: st.number_input("Seed", 0, MAX_LIVE_SEED, step=1, key="live_seed"),
                      decode=integer(0, MAX_LIVE_SEED))
    return LiveRequest(activation, width, int(seed))


def _job(request: LiveRequest) -> Job | None:
    """The job of this request, where one was asked for."""
    wanted = request.as_json()
    return next((job for job in cached.jobs().list(200) if job.study == "live" and job.request == wanted), None)


def _trained(width: int) -> dict[tuple[str, int], Run]:
    """(activation, seed) -> the finished run of this width with the most steps."""
    alike = [run for run in reads.runs_of("live") if run.spec.parameters["width"] == width]
    return {(run.spec.parameters["activation"], run.spec.parameters["seed"]): run
            for run in sorted(alike, key=lambda run: run.spec.parameters["steps"])}


def _run(request: LiveRequest) -> Run | None:
    """The finished run of this request, or of the steps that there was time for."""
    return _trained(request.width).get((request.activation, request.seed))


def _watch(request: LiveRequest) -> None:
    """The part that changes by itself; it asks again every second only while the training is under way."""
    job = _job(request)
    active = job is not None and job.active
    st.fragment(_progress, run_every="1s" if active else None)(request, active)


def _progress(request: LiveRequest, polled: bool) -> None:
    job = _job(request)
    if polled != (job is not None and job.active):
        st.rerun()  # begun or ended: the whole page, so that asking again begins or stops
    if job is not None and job.active:
        _running(job, request)
    else:
        _ready(job, request)
    _curves(request, polled)


def _running(job: Job, request: LiveRequest) -> None:
    stage = "stopping" if job.cancel else "training"
    if job.state == "queued":
        stage = f"queued, place {cached.jobs().position(job.id)}"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Stop", on_click=_stop, args=(job.id,), disabled=job.cancel, key="_live_stop")
        st.progress(min(job.done / job.total, 1.0) if job.total else 0.0,
                    text=f"{stage}: step {job.done:,} of {request.steps:,}{_left(job)}")
    if not workers_alive(cached.home()):
        st.warning("No worker is running, so nothing will start. `moyu serve` starts one beside the app; `moyu worker` starts one "
                   "alone.")


def _left(job: Job) -> str:
    """How long it goes on, at its speed so far or until its time is over."""
    left = cached.jobs().eta_seconds(job)
    if left is None or job.stage_started is None:
        return ""
    return f", about {max(0, round(min(left, job.stage_started + LIVE_SECONDS - time.time())))} s left"


def _stop(job_id: int) -> None:
    cached.jobs().cancel(job_id)


def _ready(job: Job | None, request: LiveRequest) -> None:
    run = _run(request)
    reason = asking.refusal("live", install="train here")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Trained" if run else "Train", type="primary", on_click=_start, args=(request,), key="_live_start",
                  disabled=run is not None or bool(reason))
        st.caption(_state(request, job, run, reason))
    message = st.session_state.pop("_live_error", None) or (job.error if job is not None and run is None else None)
    if message:
        st.error(message)


def _state(request: LiveRequest, job: Job | None, run: Run | None, reason: str) -> str:
    if run is not None:
        took = f", {number(run.manifest['seconds'])} s" if "seconds" in run.manifest else ""
        steps = run.spec.parameters["steps"]
        early = f" Its time ended at step {steps:,} of {request.steps:,}: this machine is slow or busy." * (steps < request.steps)
        return f"Run {run.id}{took}.{early} Choose another activation, width or seed to train beside it."
    if reason:
        return reason
    if job is not None and job.state == "cancelled":
        return "Stopped; what it had measured by then is kept below. Training again starts from the beginning."
    return f"Not trained yet{_expected(request)}."


def _expected(request: LiveRequest) -> str:
    """How long it will take by what others of this width took here; nothing where there are none."""
    took = [run.manifest["seconds"] * request.steps / run.spec.parameters["steps"]
            for run in _trained(request.width).values() if "seconds" in run.manifest]
    return f"; about {min(LIVE_SECONDS, statistics.median(took)):.0f} s, as others of this width took" if took else ""


def _start(request: LiveRequest) -> None:
    try:
        cached.jobs().submit("live", request.as_json(), run_exists=cached.exists)
    except MoyuError as error:
        st.session_state["_live_error"] = str(error)


def _everything(request: LiveRequest) -> pd.DataFrame:
    """Curves of all live runs of this width, whatever activation and seed, and what the unfinished one has measured so far."""
    frames = [reads.live_run(run.id) for run in _trained(request.width).values()]
    if _run(request) is None:
        frames.append(origin.live_curves(cached.home(), request))
    return pd.concat([frame for frame in frames if len(frame)] or [pd.DataFrame()], ignore_index=True)


def _curves(request: LiveRequest, active: bool) -> None:
    everything = _everything(request)
    if everything.empty and active:
        st.info("The curves appear with the first measurement.")
        return
    if everything.empty:
        st.info("Nothing has been trained at this width here; *Along training* shows three models that were trained before."
                if cached.read_only() else
                "Nothing has been trained at this width yet. *Train* starts it, and the curves appear as it goes; others of the "
                "same width are drawn beside it.")
        return
    _finding(everything, request)
    for place, (measure, label) in enumerate(MEASURES.items()):
        if place % 2 == 0:
            columns = st.columns(2, gap="medium")  # a row each, so that neighbours stand level
        with columns[place % 2]:
            frame = everything.loc[everything["measure"] == measure]
            figure = figures.along_training(origin.over_seeds(frame), label, frame, to=max(request.steps, *frame["step"]))
            st.markdown(f"**{label[0].upper()}{label[1:]}**")
            parts.chart(figure, f"Live training, {label}", MEANINGS[measure], key=f"live-{measure}")
    st.caption(f"How to read this: every finished training of width {request.width} and the one that is running; with two seeds "
               "or more the line is their mean and the band its 95 % t interval. Measured on 512 characters that were not "
               "trained on.")


def _finding(everything: pd.DataFrame, request: LiveRequest) -> None:
    """One sentence on the chosen training, as far as it has come."""
    own = everything.query("activation == @request.activation and seed == @request.seed")
    if own.empty:
        return
    ends = [own.query("step == @step").set_index("measure")["value"].to_dict() for step in (own["step"].min(), own["step"].max())]
    zeros, neurons, loss = ([end[name] for end in ends] for name in ("zero_share", "effective_neurons", "held_out_loss"))
    parts.finding(
        f"{figures.NAMES[request.activation]}, seed {request.seed}, step {own['step'].max():,}: exact zeros {percent(zeros[0])} → "
        f"<b>{percent(zeros[1])}</b>, effective neurons {number(neurons[0])} → <b>{number(neurons[1])}</b>, held-out loss "
        f"{number(loss[0])} → {number(loss[1])}.")
