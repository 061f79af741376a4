"""`moyu study ...`: one module a study, each adds its command to `common.study_app`; the modules that exist are imported here."""

from moyu_core.commands import history, inertia, origin, predictors, training, trial, trinity  # noqa: F401
