"""One store for log and ledger, so that what they say of an action is written in one transaction.

`tables` says what is in it, `draft` what a job may do, `journal` who writes and when; `sqlite` keeps it in a file.
`packs` reads the log's records, of which the older ones are compressed.
"""

from belljar.journal.draft import Ask, Draft, Job, Store, StoreError
from belljar.journal.journal import Journal, Unavailable
from belljar.journal.opening import migrate_database, open_journal, opened_journal, shown

__all__ = [
    "Ask",
    "Draft",
    "Job",
    "Journal",
    "Store",
    "StoreError",
    "Unavailable",
    "migrate_database",
    "open_journal",
    "opened_journal",
    "shown",
]
