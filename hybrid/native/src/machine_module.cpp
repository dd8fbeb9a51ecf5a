// How does Python call the machine's measurements? Argument checks, the GIL (released), and Ctrl-C.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <set>
#include <stdexcept>
#include <string>

#include "machine.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace hybrid::machine {
namespace {

constexpr std::size_t kMaxThreads = 4096, kMaxRepeats = 1000;
constexpr std::size_t kMaxBytes = std::size_t{1} << 40;
// 2^32 lines of 64 bytes is what the order of a latency measurement can number.
constexpr std::size_t kMaxChaseBytes = std::size_t{1} << 36;
constexpr double kMaxRepeatS = 10.0;

void check(const std::vector<int>& cpus, std::size_t repeats, double repeat_s) {
    if (cpus.empty() || cpus.size() > kMaxThreads)
        throw std::invalid_argument("need 1 to " + std::to_string(kMaxThreads) + " cores; got " +
                                    std::to_string(cpus.size()));
    if (std::set<int>(cpus.begin(), cpus.end()).size() != cpus.size())
        throw std::invalid_argument("a core is named twice: two threads on one core measure neither");
    if (repeats == 0 || repeats > kMaxRepeats)
        throw std::invalid_argument("repeats must be in [1, " + std::to_string(kMaxRepeats) + "]; got " +
                                    std::to_string(repeats));
    if (!(repeat_s >= 0 && repeat_s <= kMaxRepeatS))
        throw std::invalid_argument("repeat_s must be in [0, 10]; got " + std::to_string(repeat_s));
}

bool ctrl_c() {
    nb::gil_scoped_acquire locked;
    return PyErr_CheckSignals() != 0;
}

// Runs without the GIL; an exception that a signal's handler has set travels on.
template <class Measure>
std::vector<double> measured(Measure measure) {
    try {
        nb::gil_scoped_release unlocked;
        return measure(ctrl_c);
    } catch (const Interrupted&) {
        throw nb::python_error();
    }
}

std::vector<double> bandwidth_of(const std::string& kind, const std::vector<int>& cpus, std::size_t array_bytes,
                                 std::size_t repeats, double repeat_s) {
    check(cpus, repeats, repeat_s);
    if (kind != "read" && kind != "copy" && kind != "triad")
        throw std::invalid_argument("kind must be read, copy or triad; got " + kind);
    if (array_bytes > kMaxBytes) throw std::invalid_argument("array_bytes is more than a tebibyte");
    return measured([&](auto stop) { return bandwidth(kind, cpus, array_bytes, repeats, repeat_s, stop); });
}

std::vector<double> peak_of(const std::string& number, const std::string& version, const std::vector<int>& cpus,
                            std::size_t repeats, double repeat_s) {
    check(cpus, repeats, repeat_s);
    if (number != "fp32" && number != "int8") throw std::invalid_argument("number must be fp32 or int8; got " + number);
    return measured([&](auto stop) { return peak(number, version, cpus, repeats, repeat_s, stop); });
}

std::vector<double> latency_of(int cpu, std::size_t bytes, std::size_t repeats, double repeat_s) {
    check({cpu}, repeats, repeat_s);
    if (bytes < 1024 || bytes > kMaxChaseBytes)
        throw std::invalid_argument("working_set_bytes must be in [1024, 2^36]; got " + std::to_string(bytes));
    return measured([&](auto stop) { return latency(cpu, bytes, repeats, repeat_s, stop); });
}

}  // namespace

}  // namespace hybrid::machine

NB_MODULE(_machine, module) {
    using namespace hybrid::machine;
    module.def("bandwidth", &bandwidth_of, "kind"_a, nb::kw_only(), "cpus"_a, "array_bytes"_a, "repeats"_a, "repeat_s"_a);
    module.def("peak", &peak_of, "number"_a, "version"_a, nb::kw_only(), "cpus"_a, "repeats"_a, "repeat_s"_a);
    module.def("latency", &latency_of, nb::kw_only(), "cpu"_a, "working_set_bytes"_a, "repeats"_a, "repeat_s"_a);
    module.def("fp32_versions", &fp32_versions);
    module.def("int8_versions", &int8_versions);
}
