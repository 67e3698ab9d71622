"""Tries the alarms of template.yaml with made-up traffic: ten calls a day and a million, with and without preflights.

`.ci/validate-template` runs this, as a part of `make validate`. A day of traffic becomes the metrics that the function,
API Gateway, Lambda and DynamoDB would publish. Every five minutes, each alarm is evaluated on these metrics as
CloudWatch does it, over a sliding window. AWS's guide leaves open what metric math does with missing data. So an alarm
must do the same under each reading of the guide.
"""

import ast
import functools
import itertools
import math
import operator
from collections import Counter
from dataclasses import dataclass

MINUTES = 24 * 60
# The values of the dimension Outcome that alarms use, and the status of each. `unknown_outcomes` looks for them in src.
STATUS = {
    "revoked": 200,
    "session_inactive": 401,
    "internal_error": 500,
    "temporarily_unavailable": 503,
}
# What leaves no line of the request in the function's log.
CRASHED, THROTTLED, UNREACHABLE, REFUSED = "crashed", "throttled by Lambda", "not sent to the function", "429"


class Day:
    """The metrics of a day, by minute. A metric without a value in a minute has no data then."""

    def __init__(self):
        self.sums = [Counter() for _ in range(MINUTES)]
        self.durations = [Counter() for _ in range(MINUTES)]

    def add(self, calls, outcomes, ms=30, slow=0.0, slow_ms=0, preflights=1.0, begin=0, end=MINUTES, to="rest"):
        """Adds a number of calls, spread evenly over the minutes from `begin` to `end`.

        `outcomes` has the share of each outcome, `slow` the share of calls that take `slow_ms`, and `preflights` their
        number for each call.
        """
        kinds = [*outcomes.items(), ("preflight", preflights)]
        due = dict.fromkeys([name for name, _ in kinds], 0.5)
        slow_due = 0.5
        for minute in range(begin, end):
            for name, share in kinds:
                due[name] += share * calls / (end - begin)
                number = int(due[name])
                due[name] -= number
                if not number:
                    continue
                slow_due += slow * number if name != "preflight" else 0
                slow_now = min(int(slow_due), number) if name != "preflight" else 0
                slow_due -= slow_now
                self.count(minute, name, number, to)
                if name not in (THROTTLED, UNREACHABLE, REFUSED):
                    self.durations[minute][1 if name == "preflight" else ms] += number - slow_now
                    self.durations[minute][slow_ms] += slow_now
        return self

    def count(self, minute, name, number, to):
        sums = self.sums[minute]
        if to == "rest":
            sums["Count"] += number
            sums["5XXError"] += number * (name in (CRASHED, THROTTLED, UNREACHABLE) or STATUS.get(name, 0) >= 500)
            if name == REFUSED:
                sums["TooManyRequests"] += number
        if name in (THROTTLED, UNREACHABLE, REFUSED):
            sums["Throttles"] += number * (name == THROTTLED)
            return
        sums["Throttles"] += 0
        sums["Errors"] += number * (name == CRASHED)
        if name != CRASHED:
            sums["Requests"] += number
            sums["Requests", name] += number

    def throttle_table(self, metric, number, begin, end):
        """Adds throttled reads or writes of the table or its index to each minute."""
        for minute in range(begin, end):
            self.sums[minute][metric] += number
        return self

    def freeze(self):
        """Prepares sums over any window: a metric's running total, and its running number of minutes with data."""
        names = {name for sums in self.sums for name in sums}
        self.totals = {name: [0, *itertools.accumulate(sums[name] for sums in self.sums)] for name in names}
        self.present = {name: [0, *itertools.accumulate(name in sums for sums in self.sums)] for name in names}
        lengths = {ms for durations in self.durations for ms in durations}
        self.lengths = {ms: [0, *itertools.accumulate(each[ms] for each in self.durations)] for ms in sorted(lengths)}
        return self

    def value(self, metric, statistic, begin, end):
        """A metric's value from one minute to another, or None if it has no data there."""
        begin, end = max(begin, 0), max(end, 0)
        if metric == "Duration":
            number = {ms: total[end] - total[begin] for ms, total in self.lengths.items()}
            rank = math.ceil(sum(number.values()) * float(statistic.removeprefix("p")) / 100)
            passed = itertools.accumulate(number.values())
            return next((ms for ms, total in zip(number, passed) if total >= rank > 0), None)
        assert statistic == "Sum", statistic
        if metric not in self.totals or self.present[metric][begin] == self.present[metric][end]:
            return None
        return self.totals[metric][end] - self.totals[metric][begin]


KNOWN = {
    *("Count", "5XXError", "TooManyRequests", "Errors", "Throttles", "Duration", "Requests"),
    *(("Requests", outcome) for outcome in ("preflight", *STATUS)),
    *(("ReadThrottleEvents", on) for on in ("table", "index")),
    *(("WriteThrottleEvents", on) for on in ("table", "index")),
}


def name_of(metric):
    """A metric of the template by its name in a `Day`."""
    name = metric["MetricName"]
    if isinstance(name, dict):
        name = name["Fn::Sub"].removesuffix("-${AWS::StackName}")
    dimensions = {each["Name"]: each["Value"] for each in metric.get("Dimensions", [])}
    if "Outcome" in dimensions:
        name = (name, dimensions["Outcome"])
    if metric["Namespace"] == "AWS/DynamoDB":
        name = (name, "index" if "GlobalSecondaryIndexName" in dimensions else "table")
    if name not in KNOWN:
        raise ValueError(f"nothing publishes the metric {name}")
    return name


@dataclass(frozen=True)
class Reading:
    """What metric math does with missing data, as far as AWS's guide leaves it open."""

    fill_fills_empty: bool  # FILL of a metric without any data has values
    sum_skips_missing: bool  # SUM of several metrics leaves out those without data
    missing_is_zero: bool  # an operator takes a missing value for 0


READINGS = [
    Reading(*values)
    for values in itertools.product([True, False], repeat=3)
    # Under none of these two would any expression with optional metrics work, and many published ones do.
    if values[0] or values[1]
]
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.GtE: operator.ge,
    ast.Gt: operator.gt,
    ast.LtE: operator.le,
    ast.Lt: operator.lt,
}


@functools.cache
def compute(expression, series, length, reading):
    """The values of an expression of metric math, which has the syntax of an expression of Python. None is missing."""

    def operate(kind, left, right):
        if reading.missing_is_zero and (left is None) != (right is None):
            left, right = left or 0, right or 0
        if left is None or right is None or (kind is ast.Div and right == 0):
            return None
        return OPERATORS[kind](left, right)

    def total(values):
        found = [value for value in values if value is not None]
        return sum(found) if found and (reading.sum_skips_missing or len(found) == len(values)) else None

    def visit(node):
        match node:
            case ast.Constant(value):
                return [value] * length
            case ast.Name(name):
                return series[name]
            case ast.BinOp(left, kind, right) | ast.Compare(left, [kind], [right]):
                return [operate(type(kind), *pair) for pair in zip(visit(left), visit(right))]
            case ast.Call(ast.Name("IF"), [condition, yes, no]):
                choices = zip(visit(condition), visit(yes), visit(no))
                return [None if chosen is None else a if chosen else b for chosen, a, b in choices]
            case ast.Call(ast.Name("FILL"), [metric, ast.Constant(value)]):
                values = visit(metric)
                if not reading.fill_fills_empty and all(each is None for each in values):
                    return values
                return [value if each is None else each for each in values]
            case ast.Call(ast.Name("SUM"), [ast.List(parts)]):
                return [total(values) for values in zip(*map(visit, parts))]
        raise ValueError(f"not understood: {ast.unparse(node)}")

    series = dict(series)
    return visit(ast.parse(expression, mode="eval").body)


def states(alarm, day, minute):
    """Whether the alarm is on after this minute, under each reading."""
    periods = alarm["EvaluationPeriods"]

    def points(metric, statistic, period):
        length = period // 60
        ends = [minute - number * length for number in range(periods)]
        return tuple(day.value(name_of(metric), statistic, end - length, end) for end in ends)

    if "Metrics" in alarm:
        stats = {each["Id"]: each["MetricStat"] for each in alarm["Metrics"] if "MetricStat" in each}
        series = tuple((name, points(each["Metric"], each["Stat"], each["Period"])) for name, each in stats.items())
        [expression] = [each["Expression"] for each in alarm["Metrics"] if "Expression" in each]
        results = [compute(expression, series, periods, reading) for reading in READINGS]
    else:
        results = [points(alarm, alarm.get("Statistic") or alarm["ExtendedStatistic"], alarm["Period"])]
    breaches = {"GreaterThanThreshold": operator.gt, "GreaterThanOrEqualToThreshold": operator.ge}
    breaches = breaches[alarm["ComparisonOperator"]]
    assert alarm["TreatMissingData"] == "notBreaching", alarm
    breaching = [sum(value is not None and breaches(value, alarm["Threshold"]) for value in each) for each in results]
    return [number >= alarm.get("DatapointsToAlarm", periods) for number in breaching]


def unknown_outcomes(source):
    """The outcomes of this file that the function's source code does not have."""
    return [name for name in ("preflight", *STATUS) if f'"{name}"' not in source]


USUAL = {"revoked": 0.9, "session_inactive": 0.1}
FAILING = {"temporarily_unavailable": 1.0}
MILLION = 1_000_000


def cases(preflights):
    """Each kind of traffic, and the alarms that must go off."""

    def day(calls, outcomes, **more):
        return Day().add(calls, outcomes, preflights=preflights, **more)

    yield "no traffic", Day(), set()
    yield "ten calls", day(10, USUAL), set()
    yield "ten calls, 3 of them 401, 1 of them 503", day(
        10, {"revoked": 0.6, "session_inactive": 0.3, "temporarily_unavailable": 0.1}
    ), set()
    yield "ten calls, one of a user with 10,000 sessions", day(10, USUAL, slow=0.1, slow_ms=10_000), set()
    yield "one call, a 503", day(1, FAILING), set()
    yield "one call, a 401", day(1, {"session_inactive": 1.0}), set()
    yield "2,000 calls, six of ten 401", day(2_000, {"revoked": 0.4, "session_inactive": 0.6}), set()
    yield "ten calls, and one refused each minute of an hour", day(10, USUAL).add(
        60, {REFUSED: 1.0}, preflights=0, begin=720, end=780
    ), set()
    yield "a million calls of a second, 1 of 100 a 503, 1 of 1,000 slow", day(
        MILLION,
        {"revoked": 0.89, "session_inactive": 0.1, "temporarily_unavailable": 0.01},
        ms=1_000,
        slow=0.001,
        slow_ms=20_000,
    ), set()
    yield "a million calls, four minutes of which all fail", day(MILLION, USUAL).add(
        10_000, {"temporarily_unavailable": 0.5, "session_inactive": 0.5}, ms=10_000, begin=721, end=725
    ).throttle_table(("ReadThrottleEvents", "table"), 1_000, 721, 725), set()
    yield "a million calls, a third of them 401", day(MILLION, {"revoked": 0.67, "session_inactive": 0.33}), set()
    yield "a million calls, and a peak that is refused for two minutes", day(MILLION, USUAL).add(
        2_000, {REFUSED: 1.0}, preflights=0, begin=720, end=722
    ), set()

    unavailable = {"UnavailableDayAlarm", "ServerErrorDayAlarm"}
    yield "ten calls, all 503", day(10, FAILING), unavailable
    yield "ten calls in one hour, all 503", day(10, FAILING, begin=600, end=660), unavailable
    yield "ten calls, six of them 503", day(10, {"revoked": 0.4, "temporarily_unavailable": 0.6}), unavailable
    yield "a million calls, all 503 for a quarter of an hour", day(MILLION, USUAL, end=720).add(
        MILLION / 96, FAILING, preflights=preflights, begin=720, end=735
    ), {"UnavailableShareAlarm", "ServerErrorAlarm"}
    yield "a million calls, one in eight a 503", day(
        MILLION, {"revoked": 0.875, "temporarily_unavailable": 0.125}
    ), {"UnavailableShareAlarm", "ServerErrorAlarm"}

    for calls in (10, MILLION):
        yield f"{calls} calls, one of them a 500", day(calls, USUAL).add(
            1, {"internal_error": 1.0}, preflights=preflights, begin=720, end=721
        ), {"InternalErrorAlarm"}
        yield f"{calls} calls, one of them crashes", day(calls, USUAL).add(
            1, {CRASHED: 1.0}, preflights=preflights, begin=720, end=721
        ), {"FunctionErrorAlarm"}
        yield f"{calls} calls, one of them throttled by Lambda", day(calls, USUAL).add(
            1, {THROTTLED: 1.0}, preflights=preflights, begin=720, end=721
        ), {"FunctionThrottleAlarm"}
    # Preflights do not reach it either.
    unreachable = {UNREACHABLE: 1.0 + preflights}
    yield "ten calls, none reaches the function", Day().add(10, unreachable, preflights=0), {"ServerErrorDayAlarm"}
    yield "a million calls, none reaches the function", Day().add(MILLION, unreachable, preflights=0), {
        *("ServerErrorAlarm", "ServerErrorDayAlarm")
    }

    yield "ten calls, all 401", day(10, {"session_inactive": 1.0}), {"InactiveDayAlarm"}
    yield "100,000 calls, six of ten 401 for a quarter of an hour", day(100_000, USUAL, end=720).add(
        100_000 / 96, {"revoked": 0.4, "session_inactive": 0.6}, preflights=preflights, begin=720, end=735
    ), {"InactiveShareAlarm"}
    yield "ten calls, and an hour of guessed tokens, most of them refused", day(10, USUAL).add(
        50 * 3_600, {"session_inactive": 1.0}, preflights=0, begin=720, end=780
    ).add(250 * 3_600, {REFUSED: 1.0}, preflights=0, begin=720, end=780), {
        *("InactiveShareAlarm", "InactiveDayAlarm", "TooManyRequestsAlarm")
    }
    yield "a million calls, and ten minutes of a peak that is refused", day(MILLION, USUAL).add(
        100, {REFUSED: 1.0}, preflights=0, begin=720, end=730
    ), {"TooManyRequestsAlarm"}

    yield "ten calls, each takes 10 s", day(10, USUAL, ms=10_000), {"DurationDayAlarm"}
    yield "a million calls, one in twenty takes 10 s for 20 minutes", day(MILLION, USUAL, end=720).add(
        MILLION / 72, USUAL, slow=0.05, slow_ms=10_000, preflights=preflights, begin=720, end=740
    ), {"DurationAlarm"}
    for on in ("table", "index"):
        for metric in ("ReadThrottleEvents", "WriteThrottleEvents"):
            many, few = (day(10, USUAL).throttle_table((metric, on), number, 600, 620) for number in (30, 10))
            yield f"{metric} of the {on}", many, {"TableThrottleAlarm"}
            yield f"few {metric} of the {on}", few, set()


def failures(template):
    """What is wrong with the alarms of a template."""
    resources = template["Resources"].items()
    alarms = {name: each["Properties"] for name, each in resources if each["Type"] == "AWS::CloudWatch::Alarm"}
    found, seen = [], set()
    for preflights in (0.0, 1.0):
        for what, day, expected in cases(preflights):
            day.freeze()
            seen |= expected
            for name, alarm in alarms.items():
                by_minute = [states(alarm, day, minute) for minute in range(5, MINUTES + 1, 5)]
                goes_off = {any(by_reading) for by_reading in zip(*by_minute)}
                if goes_off != {name in expected}:
                    says = "is silent" if name in expected else "goes off"
                    says = "depends on the reading" if len(goes_off) > 1 else says
                    found.append(f"{what}, with {preflights:.0f} preflights a call: {name} {says}")
            found += [f"{what}: there is no {name}" for name in expected - set(alarms)]
    found += [f"no traffic makes {name} go off" for name in set(alarms) - seen]
    return found
