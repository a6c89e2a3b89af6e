// room: engine
// Descriptions of an answer's form: whatever is accepted has an automaton in which each state that is reached goes on or
// may end.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "engine/structured/answer_format.hpp"
#include "engine/structured/automaton.hpp"

using namespace troupe::engine::structured;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto kind = static_cast<format_kind>(1 + data[0] % 6);
  auto grammar = compile({kind, std::string(reinterpret_cast<const char*>(data) + 1, size - 1)});
  if (!grammar) {
    if (grammar.error().detail.empty()) std::abort();
    return 0;
  }
  automaton a(std::move(*grammar));
  work_budget work;
  automaton::state s = a.start(work);
  if (work.exceeded()) return 0;
  std::uint32_t random = 1;
  for (int step = 0; step < 300; ++step) {
    if (s == automaton::dead) std::abort();
    automaton::state next = automaton::dead;
    random = random * 1664525 + 1013904223;
    for (int b = 0; b < 256 && next == automaton::dead; ++b)
      next = a.next(s, static_cast<std::uint8_t>(b + (random >> 24)), work);
    if (work.exceeded()) return 0;
    if (next == automaton::dead) {
      if (!a.accepts(s)) std::abort();
      return 0;
    }
    s = next;
  }
  return 0;
}
