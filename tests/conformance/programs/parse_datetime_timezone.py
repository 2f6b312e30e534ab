# expect: 2024-01-01T12:00:00+00:00 14 1704110400
import datetime as dt
t = dt.datetime(2024, 1, 1, 12, tzinfo=dt.timezone.utc)
print(t.isoformat(), t.astimezone(dt.timezone(dt.timedelta(hours=2))).hour, int(t.timestamp()))
