// Whether a draft model is worth having: found out by decoding with it and without it in turn, since what it takes away
// (cores, memory bandwidth, a link) shows in no single pass. It goes on only while the engine decodes faster with it.
//
//   without ─► with ─► faster by 3 % ─► on, twice as long each time ─┐
//      ▲         └───► not ─► off, twice as long each time ──────────┤
//      └─────────────────────────────────────────────────────────────┘
//
// Passes of few and of many sequences are told apart: a draft that helps one may cost eight. Owner and thread: one engine.
#pragma once

#include <array>
#include <cstdint>

namespace troupe::engine {

class draft_trial {
 public:
  // A draft model can be asked, or no more. Without `trying` it is wanted as long as it can be asked.
  void expect(bool on, bool trying = true);
  bool wanted() const {
    return expected_ &&
           (!trying_ || loads_[load_].state == phase::with || loads_[load_].state == phase::on);
  }
  bool proven() const { return expected_ && loads_[load_].was_on; }
  void heard() { heard_ = true; }  // it offered something
  // A pass of decodes alone brought so many tokens in that time.
  void observe(std::uint32_t decodes, std::uint32_t tokens, double seconds);

 private:
  enum class phase : std::uint8_t { without, with, on, off };
  struct arm {
    double tokens = 0, seconds = 0;
    double speed() const { return seconds > 0 ? tokens / seconds : 0; }
  };
  struct load {
    phase state = phase::without;
    std::uint32_t passes = 0;  // in this phase
    std::uint32_t silent = 0;  // of `with`: before anything was offered
    std::uint32_t stay = 0;    // length of `on` or `off`
    bool was_on = false;
    arm plain, drafted;
  };
  static void begin(load& l, phase next);
  void decide(load& l, bool hopeless);

  bool expected_ = false, heard_ = false, trying_ = true;
  std::size_t load_ = 0;
  std::array<load, 5> loads_;  // 1, 2 to 3, 4 to 7, 8 to 15 sequences, more
};

}  // namespace troupe::engine
