#include "tests/simulation/abort_note.hpp"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>

namespace troupe::simulation {
namespace {

char text[16'384];
std::atomic<bool> under_way{false};

extern "C" void tell_schedule(int) {
  if (under_way) [[maybe_unused]]
    const auto n = write(STDERR_FILENO, text, std::strlen(text));
}

}  // namespace

abort_note::abort_note(const scenario& s) {
  const auto told = "aborted in mid-schedule; again: " + s.origin + "\n" + describe(s);
  std::strncpy(text, told.c_str(), sizeof text - 1);
  under_way = true;
  std::signal(SIGABRT, tell_schedule);  // abort() goes on after the handler
}

abort_note::~abort_note() {
  under_way = false;
}

}  // namespace troupe::simulation
