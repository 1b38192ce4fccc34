"""How a target is told of: a finding that is there or not, or a class beside other classes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A finding, or one of several classes (`exclusive`), with the words around its name."""

    name: str
    exclusive: bool

    @property
    def of_it(self) -> str:
        """Follows "6 exams": with pneumonia; of class normal."""
        return f"of class {self.name}" if self.exclusive else f"with {self.name}"

    @property
    def of_others(self) -> str:
        """Follows "14", where the unit was just named: without; of other classes."""
        return "of other classes" if self.exclusive else "without"

    @property
    def lacking(self) -> str:
        """Follows "14", where the target was just named: without it; of other classes."""
        return "of other classes" if self.exclusive else "without it"

    @property
    def one_of_others(self) -> str:
        """Names the other one of a pair."""
        return "one of another" if self.exclusive else "one without"

    @property
    def are(self) -> str:
        """Follows "80 of 200 exams": have pneumonia; are of class normal."""
        return f"are of class {self.name}" if self.exclusive else f"have {self.name}"

    @property
    def called(self) -> str:
        """What the model says of one that reaches the threshold."""
        return f"called {self.name}" if self.exclusive else "called positive"
