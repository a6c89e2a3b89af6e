// Finds stop strings in a stream of text, wherever the stream is cut, and withholds text that may
// still become one.
//
// One Knuth-Morris-Pratt automaton a stop string, fed byte by byte, so the outcome cannot depend on
// how the text was split. The match that ends first wins; of those that end together the longest.
// One stream, one thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::api {

class stop_matcher {
 public:
  // REQUIRES: no stop string is empty.
  stop_matcher(std::vector<std::string> stops, bool include_stop);

  // The text that is now certain to be part of the answer; after a match always empty.
  std::string push(std::string_view text);
  // Text withheld at the end of the stream.
  std::string flush();
  bool matched() const { return matched_; }
  std::size_t withheld() const { return held_.size(); }

 private:
  struct automaton {
    std::string stop;
    std::vector<std::uint32_t> fallback;  // [stop.size()], longest border of each prefix
    std::uint32_t state = 0;              // bytes of `stop` that the stream ends with
  };
  static void advance(automaton& a, char c);

  std::vector<automaton> automata_;
  std::string held_;  // the stream's end that is not certain yet
  bool include_stop_;
  bool matched_ = false;
};

}  // namespace troupe::api
