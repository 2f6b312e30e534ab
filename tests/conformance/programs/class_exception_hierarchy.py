# expect: done
class AppError(Exception):
    pass
class NotFound(AppError):
    def __init__(self, key):
        super().__init__(f"no {key}")
        self.key = key
try:
    try:
        {}["k"]
    except KeyError as e:
        raise NotFound("k") from e
except AppError as e:
    print(type(e).__name__, e, e.key, e.args, type(e.__cause__).__name__)
finally:
    print("done")
