"""Live pages: what runs do and did, what tenants use, contexts, the log; for people, rendered here.

    browser ── cookie ──▶ routes ──▶ Reader    over a Host (`reading`), bounded to the visitor's tenant
                            │  └────▶ Actions   what a form orders: cancel, limits, a run; the service's own calls
                            ▼
                          rendering             the templates, of which the page of a run is `audit.export`'s own

`routes.pages` gives the routes, to be mounted by whoever serves. Nothing here decides what anybody may do: that is the
`Visitor`'s to say.
"""

from belljar.service.pages.demo import DemoModel
from belljar.service.pages.reading import HostReader
from belljar.service.pages.routes import pages
from belljar.service.pages.seams import Actions, Again, Asked, Login, Reader, Visitor, Waiting

__all__ = ["Actions", "Again", "Asked", "DemoModel", "HostReader", "Login", "Reader", "Visitor", "Waiting", "pages"]
