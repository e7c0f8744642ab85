"""python_tests.py RESULTS MODULE...: runs modules of Python's own tests; RESULTS gains "ok|FAIL|skipped python::MODULE.CLASS.TEST WHY" for each."""

import importlib
import sys
import traceback
import unittest


class Lines(unittest.TestResult):
    """One line for each test, whatever became of its parts; the log has where it failed."""

    def __init__(self, results):
        super().__init__()
        self.results = results
        self.outcome = None

    def note(self, test, status, why=""):
        if self.outcome is None or self.outcome[0] != "FAIL":
            self.outcome = status, " ".join(str(why).split())[:200]
        if not isinstance(test, unittest.TestCase):  # what sets a class up: no test is going on
            self.stopTest(test)

    def addError(self, test, error):
        print("==", test.id().removeprefix("test."))
        traceback.print_exception(*error, file=sys.stdout)
        self.note(test, "FAIL", "%s: %s" % (error[0].__name__, error[1]))

    addFailure = addError

    def addSubTest(self, test, part, error):
        if error is not None:
            self.addError(test, error)

    def addSkip(self, test, reason):
        self.note(test, "skipped", reason)

    def addUnexpectedSuccess(self, test):
        self.note(test, "FAIL", "passes, which it is not expected to")

    def stopTest(self, test):
        status, why = self.outcome or ("ok", "")
        name = test.id().removeprefix("test.").replace(" ", "_")
        print(" ".join((status, "python::" + name, why)).strip(), file=self.results, flush=True)
        self.outcome = None


class Loader(unittest.TestLoader):
    """All tests but those that make hundreds of directories to hold them open at once: minutes each, with diod a quarter of an hour."""

    def getTestCaseNames(self, case):
        left_out = ("test_walk_many_open_files", "test_glob_many_open_files", "test_fd_leak")
        return [name for name in super().getTestCaseNames(case) if name not in left_out]


with open(sys.argv[1], "a") as results:
    lines = Lines(results)
    for module in sys.argv[2:]:
        Loader().loadTestsFromModule(importlib.import_module("test." + module)).run(lines)
