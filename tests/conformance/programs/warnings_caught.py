# expect: ['two', 'three'] DeprecationWarning raised boom
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    warnings.warn("one")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    warnings.warn("two", DeprecationWarning)
    warnings.warn(UserWarning("three"))
with warnings.catch_warnings():
    warnings.filterwarnings("error", message="bo+m")
    try:
        warnings.warn("boom")
    except UserWarning as error:
        print([str(one.message) for one in caught], caught[0].category.__name__, "raised", error)
