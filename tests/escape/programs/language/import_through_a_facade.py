# language: restricted
# expect: rejected error
# why: A facade must not hand out the modules that the real one imports.
from json import codecs
escaped(codecs)
