# advice: json offers: JSONDecodeError
from json import JSONEncoder
