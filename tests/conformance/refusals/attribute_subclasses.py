# advice: list the classes that you need
object.__subclasses__()
