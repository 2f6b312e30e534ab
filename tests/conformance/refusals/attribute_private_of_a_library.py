# advice: for your own classes
from concurrent.futures import ThreadPoolExecutor
ThreadPoolExecutor()._work_queue
