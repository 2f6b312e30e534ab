# language: restricted
# expect: error
# says: the category must be a Warning class
# why: The category is called with the message.
import warnings
warnings.warn("x", category=lambda message: escaped(message))
