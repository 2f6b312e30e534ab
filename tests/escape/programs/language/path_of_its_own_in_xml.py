# language: restricted
# expect: error
# says: nothing was asked
# why: The library takes a path apart in Python, and keeps what it made of it for everybody.
import xml.etree.ElementTree as ET
class Path(str):
    def __getitem__(self, at): escaped("asked by the library")
    def __hash__(self): escaped("asked by the library")
    def __eq__(self, other): escaped(other)
root = ET.fromstring("<a><b><c/></b></a>")
assert root.find(Path("b/c")) is not None and len(root.findall(Path(".//c"))) == 1
raise ValueError("nothing was asked")
