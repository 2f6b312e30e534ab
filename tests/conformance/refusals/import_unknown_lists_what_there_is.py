# advice: these modules are: abc, ast, base64
import left_pad
