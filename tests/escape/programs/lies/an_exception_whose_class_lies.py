# language: python
# expect: error
# says: type='Liar'
# why: An agent that asked the class for its name, or the exception for its traceback, would die or send nonsense.
class Kind(type):
    @property
    def __name__(cls):
        raise ValueError
class Name(str):
    def startswith(self, *_):
        raise ValueError
class Place:
    tb_lineno = 10**40
    tb_next = None
    class tb_frame:
        class f_code:
            co_filename = "<cell 1>"
class Liar(Exception, metaclass=Kind):
    __traceback__ = Place()
def fail():
    raise Liar
fail.__code__ = fail.__code__.replace(co_filename=Name("<cell 1>"))
fail()
