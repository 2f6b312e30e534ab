"""All routes, subject by subject."""

from belljar.service.api import audit, contexts, health, hooks, keys, policies, quotas, runs, sessions, uploads
from belljar.service.front import anthropic, models, openai
from belljar.service.routes import Route

__all__ = ["ROUTES"]

ROUTES: tuple[Route, ...] = (
    *runs.ROUTES,
    *sessions.ROUTES,
    *contexts.ROUTES,
    *uploads.ROUTES,
    *quotas.ROUTES,
    *audit.ROUTES,
    *policies.ROUTES,
    *keys.ROUTES,
    *hooks.ROUTES,
    *health.ROUTES,
    *anthropic.ROUTES,
    *openai.ROUTES,
    *models.ROUTES,
)
