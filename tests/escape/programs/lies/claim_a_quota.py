# language: both
# expect: error
# why: The same for quotas.
# says: QuotaExceeded
raise QuotaExceeded('no', 1, 2)
