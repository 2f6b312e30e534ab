# expect: text
from abc import ABC, abstractmethod
class Reader(ABC):
    @abstractmethod
    def read(self): ...
class TextReader(Reader):
    def read(self):
        return "text"
try:
    Reader()
except TypeError as e:
    print("abstract:", "abstract" in str(e))
print(TextReader().read())
