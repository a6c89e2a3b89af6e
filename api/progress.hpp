// Shows how far loading is: in place on a terminal, else a line of the log for each new tenth. One thread.
#pragma once

#include <string>

namespace troupe::api {

class progress {
 public:
  progress();
  // "decode-0: loading weights 43 %"; the same text twice is shown once.
  void show(const std::string& text);
  void finish();  // leaves the terminal's line clean

 private:
  const bool terminal_;
  std::string last_;
};

}  // namespace troupe::api
