# advice: match by keyword
class A:
    __match_args__ = ("__dict__",)
