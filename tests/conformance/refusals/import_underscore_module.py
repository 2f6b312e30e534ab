# advice: not for import
import _thread
