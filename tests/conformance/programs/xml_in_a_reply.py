# expect: ['Alice', 'Bob'] 17 ['people', 'person', 'name', 'person', 'name'] bad: line 1
import xml.etree.ElementTree as ET

REPLY = '<people n="2"><person age="17"><name>Alice</name></person><person><name>Bob</name> Jr.</person></people>'
root = ET.fromstring(REPLY)
print(root.tag, root.attrib, len(root), root[1][0].tail, root.findtext("person/name"), root.find("nobody"))
print(ET.tostring(root[0], encoding="unicode"), "".join(root.itertext()))
try:
    ET.fromstring("<a")
except ET.ParseError as error:
    problem = f"bad: line {error.position[0]}"
names = [name.text for name in root.iter("name")]
print(names, root.find("person").get("age"), [element.tag for element in root.iter()], problem)
