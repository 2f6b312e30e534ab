# language: restricted
# expect: rejected error
# why: From any object to every class that is loaded.
escaped(answer.__class__.__base__.__subclasses__())
