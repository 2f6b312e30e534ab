# advice: there is no network
import requests
requests.get("http://example.com")
