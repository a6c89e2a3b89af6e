// What to run again when an assertion of the product ends the process in mid-schedule: on SIGABRT the schedule under way
// is named on standard error. One schedule at a time.
#pragma once

#include "tests/simulation/scenario.hpp"

namespace troupe::simulation {

class abort_note {
 public:
  explicit abort_note(const scenario& s);
  ~abort_note();
  abort_note(const abort_note&) = delete;
  abort_note& operator=(const abort_note&) = delete;
};

}  // namespace troupe::simulation
