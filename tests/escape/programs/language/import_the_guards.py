# language: restricted
# expect: rejected error
# why: Who owns the guards owns the language.
import guest.language.guards
escaped(guest.language.guards)
